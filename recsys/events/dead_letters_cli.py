"""``python -m recsys.events.dead_letters_cli ls|show|replay``: look after dead letters.

The same as ``recsys dead-letters``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.endpoints import Endpoints, resolve
from recsys.errors import InputError, RecsysError
from recsys.events.dead_letters import (
    DeadLetter,
    is_mark,
    open_letter,
    read_letters,
    read_marks,
    replay,
)
from recsys.events.kafka import connect_reader, connect_writer, ensure_topics, latest_positions
from recsys.events.log import EventReader, Record, TopicPartition
from recsys.events.topics import Topics
from recsys.settings import Settings

OK, NOT_FOUND, UNUSABLE = 0, 1, 2
"""Exit codes: done; the letter asked for does not exist; no broker."""
_SHOWN_BYTES = 2_000


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> int:
    """Run the command line; give the exit code."""
    arguments = _parser().parse_args(argv)
    settings = settings or Settings()
    try:
        endpoints = resolve(settings)
        topic = Topics(namespace=settings.namespace).dead_letters
        ensure_topics(settings, endpoints, [topic])
        if arguments.command == "ls":
            return _ls(settings, endpoints, topic, limit=arguments.limit, as_json=arguments.json)
        if arguments.command == "show":
            return _show(settings, endpoints, topic, arguments.letter)
        return _replay(settings, endpoints, topic)
    except RecsysError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"recsys dead-letters: {error}", markup=False, highlight=False
        )
        return UNUSABLE
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys dead-letters", description="Look after records that could not be read."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    ls = commands.add_parser("ls", help="list the letters, newest last")
    ls.add_argument("--limit", type=int, default=50, help="at most this many; default 50")
    ls.add_argument("--json", action="store_true", help="one JSON document a line")
    show = commands.add_parser("show", help="show one letter with its original bytes")
    show.add_argument("letter", metavar="PARTITION:OFFSET", help="as `ls` names it")
    commands.add_parser("replay", help="send those that are valid now to their original topic")
    return parser


@contextmanager
def _reading(
    settings: Settings, endpoints: Endpoints, topic: str, *, group: str
) -> Iterator[tuple[EventReader, Mapping[TopicPartition, int]]]:
    ends = latest_positions(settings, endpoints, [topic])
    reader = connect_reader(
        settings, endpoints, topics=[topic], group=f"{settings.namespace}.{group}"
    )
    try:
        yield reader, ends
    finally:
        reader.close()


def _ls(settings: Settings, endpoints: Endpoints, topic: str, *, limit: int, as_json: bool) -> int:
    with _reading(settings, endpoints, topic, group="dead-letters-ls") as (reader, ends):
        start = reader.positions()
        sent = read_marks(reader, ends)
        reader.seek(start)
        found = [record for record in read_letters(reader, ends) if not is_mark(record)]
    found.sort(key=lambda record: record.timestamp_ms)
    rows = [_summary(record, sent) for record in found[-limit:]]
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row) + "\n")
        return OK
    console = Console(soft_wrap=True)
    if not rows:
        console.print("no dead letters")
        return OK
    table = Table(box=None, padding=(0, 2))
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    console.print(table)
    console.print(f"{len(found)} letters, {len(sent)} of them sent since")
    return OK


def _summary(record: Record, sent: set[tuple[TopicPartition, int]]) -> dict[str, Any]:
    place = (TopicPartition(record.topic, record.partition), record.offset)
    when = datetime.fromtimestamp(record.timestamp_ms / 1000, tz=UTC)
    common = {
        "letter": f"{record.partition}:{record.offset}",
        "written": when.isoformat(timespec="seconds"),
        "state": "sent" if place in sent else "waiting",
    }
    try:
        letter = open_letter(record)
    except InputError:
        return {**common, "from": "", "code": "unreadable", "reason": "not a dead letter"}
    return {
        **common,
        "from": f"{letter.topic}[{letter.partition}] {letter.offset}",
        "code": letter.code,
        "reason": letter.reason,
    }


def _show(settings: Settings, endpoints: Endpoints, topic: str, name: str) -> int:
    partition_text, _, offset_text = name.partition(":")
    if not (partition_text.isdecimal() and offset_text.isdecimal()):
        raise InputError(f"wanted PARTITION:OFFSET such as 0:17, found {name!r}")
    at, offset = TopicPartition(topic, int(partition_text)), int(offset_text)
    with _reading(settings, endpoints, topic, group="dead-letters-ls") as (reader, ends):
        if not 0 <= offset < ends.get(at, 0):
            sys.stderr.write(f"no letter {name}; `recsys dead-letters ls` names them\n")
            return NOT_FOUND
        reader.seek({**ends, at: offset})
        record = next(r for r in read_letters(reader, {**ends, at: offset + 1}))
    _print_letter(open_letter(record))
    return OK


def _print_letter(letter: DeadLetter) -> None:
    document = {
        name: value
        for name, value in msgspec.structs.asdict(letter).items()
        if not name.endswith("_base64")
    }
    document["key"] = None if letter.key is None else letter.key.decode(errors="backslashreplace")
    text = letter.value[:_SHOWN_BYTES].decode(errors="backslashreplace")
    document["value"] = text + ("..." if len(letter.value) > _SHOWN_BYTES else "")
    document["value_bytes"] = len(letter.value)
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _replay(settings: Settings, endpoints: Endpoints, topic: str) -> int:
    with _reading(settings, endpoints, topic, group="dead-letters-replay") as (reader, ends):
        writer = connect_writer(settings, endpoints)
        try:
            report = replay(reader, writer, ends)
        finally:
            writer.close()
    sys.stdout.write(
        f"sent {report.num_sent}, left {report.num_left}, sent before {report.num_sent_before}, "
        f"unreadable {report.num_unreadable}\n"
    )
    return OK


if __name__ == "__main__":
    sys.exit(main())
