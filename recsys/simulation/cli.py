"""python -m recsys.simulation.cli --preset demo --output events.jsonl

Writes the events of a simulated world, in event-time order: as JSON lines to a file or to stdout,
or with ``--to-kafka`` to the running system's topics. A line on stderr says how far it is; the
last line there is a JSON summary. Interrupt it whenever you like: running it again writes the same
events with the same ids, which readers count once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, now_ms
from recsys.endpoints import resolve
from recsys.errors import InputError, RecsysError
from recsys.events.codec import encode
from recsys.events.log import EventWriter
from recsys.events.schema import Event
from recsys.events.topics import Topics
from recsys.settings import Settings
from recsys.simulation.config import PRESETS, WorldConfig, ending_before
from recsys.simulation.world import World

_BLOCK = 1_000
"""Events between two looks at the clock: progress and rate are kept without slowing the stream."""


RECENT = -1
"""What ``--world-start recent`` is read as."""


class Sink(Protocol):
    """Where events go."""

    def write(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:
        """Return once all is safely there."""


class JsonLines:
    """Writes one JSON object a line; to a file by way of a temporary one beside it."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._temporary = None if path is None else path.with_name(path.name + ".tmp")
        self._file = sys.stdout.buffer if self._temporary is None else self._temporary.open("wb")

    def write(self, event: Event) -> None:
        """Take one event."""
        self._file.write(encode(event))
        self._file.write(b"\n")

    def close(self) -> None:
        """Flush; a file gets its final name only now, so that it is whole or absent."""
        self._file.flush()
        if self._path is not None and self._temporary is not None:
            self._file.close()
            os.replace(self._temporary, self._path)  # noqa: PTH105  one atomic step


class LogSink:
    """Appends to the topics of an event log."""

    def __init__(self, writer: EventWriter, topics: Topics) -> None:
        self._writer = writer
        self._topics = topics

    def write(self, event: Event) -> None:
        """Take one event."""
        topic, key = self._topics.route(event)
        self._writer.append(topic, key, encode(event))

    def close(self) -> None:
        """Wait until the log has acknowledged everything."""
        self._writer.flush()
        self._writer.close()


def _kafka_sink() -> LogSink:
    from recsys.events.kafka import connect_writer  # a second, and only needed here

    settings = Settings()
    writer = connect_writer(settings, resolve(settings))
    return LogSink(writer, Topics(namespace=settings.namespace))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options, for this module and for ``recsys simulate``."""
    parser.add_argument("--preset", choices=sorted(PRESETS), default="demo", help="which world")
    parser.add_argument("--seed", type=int, default=7, help="names the world; default 7")
    parser.add_argument("--users", type=int, help="number of users, instead of the preset's")
    parser.add_argument("--items", type=int, help="number of items, instead of the preset's")
    parser.add_argument("--days", type=int, help="days with sessions, instead of the preset's")
    parser.add_argument(
        "--world-start", type=parse_instant, metavar="TIME",
        help="first instant of the world, ISO 8601 (UTC unless it says), epoch ms, or 'recent': "
        "the last midnight (UTC) that lets the world end in the past",
    )  # fmt: skip
    parser.add_argument(
        "--skip", type=parse_span, default=None, metavar="SPAN",
        help="begin this long after the world's start, e.g. 12h; default: its announcements",
    )  # fmt: skip
    parser.add_argument(
        "--span", type=parse_span, metavar="SPAN", help="stop after this much event time, e.g. 2d"
    )
    parser.add_argument("--max-events", type=int, help="stop after this many events")
    parser.add_argument("--rate", type=float, help="events a second; default as fast as possible")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, help="file of JSON lines; default stdout")
    where.add_argument("--to-kafka", action="store_true", help="to the running system's topics")


def parse_instant(text: str) -> int:
    """Read an instant as epoch ms.

    >>> parse_instant("2026-01-01"), parse_instant("1767225600000")
    (1767225600000, 1767225600000)
    """
    if text == "recent":
        return RECENT
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"wanted ISO 8601 such as 2026-01-31T12:00 or epoch ms, found {text!r}"
        ) from error
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1_000)


def parse_span(text: str) -> int:
    """Read a span of time as ms.

    >>> parse_span("90s"), parse_span("2d")
    (90000, 172800000)
    """
    units = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
    try:
        return round(float(text[:-1]) * units[text[-1:]])
    except (KeyError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"wanted a number and s, m, h or d such as 12h, found {text!r}"
        ) from error


def world_config(args: argparse.Namespace) -> WorldConfig:
    """Give the world the options ask for."""
    wanted = {
        "num_users": args.users, "num_items": args.items, "days": args.days,
        "start_ms": args.world_start,
    }  # fmt: skip
    changes = {name: value for name, value in wanted.items() if value is not None}
    if args.world_start == RECENT:
        del changes["start_ms"]
        return ending_before(replace(PRESETS[args.preset](args.seed), **changes), now_ms())
    return replace(PRESETS[args.preset](args.seed), **changes)


def run(args: argparse.Namespace) -> int:
    """Write the events; give the exit code.

    Raises:
        RecsysError: when the options contradict each other or a server is not there.
    """
    if args.rate is not None and not args.rate > 0:
        raise InputError(f"--rate must be more than 0 events a second, found {args.rate}")
    console = Console(stderr=True)
    world = World(world_config(args))
    start_ms = world.first_event_ms if args.skip is None else world.config.start_ms + args.skip
    end_ms = world.last_event_ms if args.span is None else start_ms + args.span
    console.print(f"world {world.names.tag}: {_described(world.config)}", highlight=False)
    sink: Sink = _kafka_sink() if args.to_kafka else JsonLines(args.output)
    kinds: Counter[str] = Counter()
    began = time.monotonic()
    interrupted = False
    try:
        for event in _shown(world.events(start_ms, end_ms), start_ms, end_ms, args, console):
            sink.write(event)
            kinds[event.__struct_config__.tag or ""] += 1  # type: ignore[index]
    except KeyboardInterrupt:
        interrupted = True
    sink.close()
    took_s = time.monotonic() - began
    total = kinds.total()
    summary = {
        "world": world.names.tag,
        "seed": world.config.seed,
        "events": total,
        "kinds": dict(kinds),
        "took_s": round(took_s, 3),
        "events_per_s": round(total / max(took_s, 1e-9)),
        "interrupted": interrupted,
    }
    sys.stderr.write(msgspec.json.encode(summary).decode() + "\n")
    return 130 if interrupted else 0


def _described(config: WorldConfig) -> str:
    """Give the size of the world and every parameter that is not the default."""
    default = asdict(WorldConfig())
    size = ("seed", "num_users", "num_items", "days", "start_ms")
    values = asdict(config).items()
    return ", ".join(f"{n}={v}" for n, v in values if n in size or v != default[n])


def _shown(
    events: Iterator[Event], start_ms: int, end_ms: int, args: argparse.Namespace, console: Console
) -> Iterator[Event]:
    """Pass events on at the wanted rate, showing how far in event time we are."""
    progress = Progress(
        TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:.0f}%"),
        TextColumn("{task.fields[rate]:,.0f} events/s"), TimeRemainingColumn(), console=console,
    )  # fmt: skip
    # At a low rate look at the clock more often, so that a second never passes without progress.
    block = _BLOCK if args.rate is None else max(1, min(_BLOCK, int(args.rate // 20)))
    with progress:
        task = progress.add_task("", total=end_ms - start_ms, rate=0.0)
        began = time.monotonic()
        for count, event in enumerate(events, start=1):
            yield event
            if count == args.max_events:
                return
            if count % block == 0:
                elapsed = time.monotonic() - began
                done = event.event_time_ms - start_ms
                progress.update(task, completed=done, rate=count / max(elapsed, 1e-9))
                if args.rate is not None and count / args.rate > elapsed:
                    time.sleep(count / args.rate - elapsed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; give its exit code."""
    parser = argparse.ArgumentParser(
        prog="recsys simulate", description="Write the events of a simulated world."
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return run(args)
    except BrokenPipeError:  # the reader of our stdout has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RecsysError as error:
        sys.stderr.write(f"recsys simulate: {error}\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
