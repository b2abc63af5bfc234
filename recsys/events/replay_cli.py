"""``python -m recsys.events.replay_cli DATASET [--shift-to-now] [--rate N]``: history as events.

The same as ``recsys replay``. Interrupted, it goes on where it was when given the same options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from recsys.clock import now_ms
from recsys.endpoints import resolve
from recsys.errors import RecsysError
from recsys.events.kafka import connect_writer, ensure_topics
from recsys.events.log_files import date_of
from recsys.events.replay import ReplayConfig, read_checkpoint, replay
from recsys.events.topics import Topics
from recsys.settings import Settings

OK, UNUSABLE = 0, 2
"""Exit codes: all is in the log; something could not be had."""


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> int:
    """Run the command line; give the exit code."""
    arguments = _parser().parse_args(argv)
    settings = settings or Settings()
    console = Console(stderr=True, soft_wrap=True)
    try:
        return _replay(arguments, settings, console)
    except RecsysError as error:
        console.print(f"recsys replay: {error}", markup=False, highlight=False)
        return UNUSABLE
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys replay", description="Send a data set's history to the running system."
    )
    parser.add_argument("dataset", metavar="DATASET", help="a worked mapping or a .toml file")
    shift = parser.add_mutually_exclusive_group()
    shift.add_argument(
        "--shift-to-now", action="store_true",
        help="move all times by whole weeks so that the last event is just past",
    )  # fmt: skip
    shift.add_argument("--shift-ms", type=int, default=0, help="move all times by this much")
    parser.add_argument("--rate", type=float, help="events a second; default as fast as possible")
    parser.add_argument("--again", action="store_true", help="begin anew, whatever was sent before")
    return parser


def _replay(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    from recsys.datasets.convert import (
        iter_table_events,
        refuse_bad_rows,
        shift_to_present_ms,
        to_tables,
    )
    from recsys.datasets.load import load_mapping
    from recsys.events.schema import EVENT_KINDS

    config = ReplayConfig(rate_per_s=arguments.rate)
    mapping = load_mapping(arguments.dataset)
    tables = to_tables(mapping, settings.data_dir)
    refuse_bad_rows(mapping, tables)
    frames = [tables.of_kind(kind) for kind in EVENT_KINDS]
    num_events = sum(frame.height for frame in frames)
    shift_ms: int = arguments.shift_ms
    if arguments.shift_to_now and num_events:
        last_ms = max(int(f["event_time_ms"].to_numpy().max()) for f in frames if f.height)
        shift_ms = shift_to_present_ms(last_ms, now_ms())

    endpoints = resolve(settings)
    source = f"{mapping.name}, {num_events} events, shifted by {shift_ms} ms"
    # The developer's broker forgets its log when it stops: what a file remembers may be gone.
    checkpoint = (
        None
        if endpoints.broker_profile == "tansu"
        else settings.state_dir / "replay" / f"{settings.namespace}.{mapping.name}.json"
    )
    if arguments.again and checkpoint:
        checkpoint.unlink(missing_ok=True)
    num_before = read_checkpoint(checkpoint, source) if checkpoint else 0
    if num_before:
        console.print(f"{num_before} events were sent before; --again sends them once more")
    topics = Topics(namespace=settings.namespace)
    ensure_topics(settings, endpoints, topics.all())
    writer = connect_writer(settings, endpoints)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[date]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task(mapping.name, total=num_events, date="", completed=num_before)
        num_done = replay(
            iter_table_events(tables, shift_ms=shift_ms),
            writer,
            topics,
            config=config,
            checkpoint=checkpoint,
            source=source,
            progress=lambda done, at_ms: bar.update(task, completed=done, date=date_of(at_ms)),
        )
    writer.close()
    sys.stdout.write(f"{num_done} events of {mapping.name} are in the log\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
