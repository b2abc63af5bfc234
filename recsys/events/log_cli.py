"""``recsys log``: what the Parquet event log holds, the proof that it is whole, and its upkeep.

::

    recsys log ls [--dates] [--json]       what lies where
    recsys log verify [--quick]            no gap, no duplicate, no damaged file
    recsys log compact                     many small files become few large ones
    recsys log expire --before 2025-01-01  old dates go
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from recsys.errors import InputError, RecsysError
from recsys.events.event_log import scan
from recsys.events.log_catalogue import Entry, catalogue
from recsys.events.log_compaction import Compacted, CompactionConfig, compact
from recsys.events.log_files import topics_of
from recsys.events.log_retention import expire
from recsys.events.log_verify import verify
from recsys.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when the log is not, 2 when it cannot be said."""
    options = _parser().parse_args(argv)
    settings = Settings()
    try:
        done: int = options.run(settings, options)
    except RecsysError as error:
        sys.stderr.write(f"recsys log: {error}\n")
        return 2
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys log", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    ls = commands.add_parser("ls", help="what lies where")
    ls.add_argument("--dates", action="store_true", help="a line for each date")
    ls.set_defaults(run=_ls)
    check = commands.add_parser("verify", help="prove gaps and duplicates absent")
    check.add_argument(
        "--quick", action="store_true", help="sizes and row counts only; files are not read"
    )
    check.set_defaults(run=_verify)
    small = commands.add_parser("compact", help="merge small files")
    small.add_argument(
        "--max-rows", type=int, default=CompactionConfig.max_rows, help="rows of a merged range"
    )
    small.set_defaults(run=_compact)
    old = commands.add_parser("expire", help="remove old dates")
    when = old.add_mutually_exclusive_group(required=True)
    when.add_argument("--before", metavar="DATE", help="first date to keep, as 2025-01-01 (UTC)")
    when.add_argument("--older-than", metavar="DAYS", help="dates to keep, as 400d")
    old.add_argument("--dry-run", action="store_true", help="say what would go")
    old.add_argument(
        "--force", action="store_true", help="also what features are still computed from"
    )
    old.set_defaults(run=_expire)
    for command in (ls, check, small, old):
        command.add_argument("--topic", action="append", help="full name; may be repeated")
        command.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def _topics(settings: Settings, options: argparse.Namespace) -> list[str]:
    there = topics_of(settings.event_log_dir)
    wanted: list[str] = options.topic or there
    if unknown := sorted(set(wanted) - set(there)):
        raise InputError(
            f"wanted topics of {settings.event_log_dir}, which are {', '.join(there) or 'none'}; "
            f"found {', '.join(unknown)}"
        )
    return wanted


def _say(options: argparse.Namespace, document: object, table: Table) -> None:
    if options.json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        Console().print(table)


def _ls(settings: Settings, options: argparse.Namespace) -> int:
    entries = [
        entry
        for topic in _topics(settings, options)
        for entry in catalogue(settings.event_log_dir, topic, by_date=options.dates)
    ]
    table = Table()
    headers = ("topic", "partition", "date" if options.dates else "dates", "offsets")
    for name in (*headers, "rows", "files", "MB"):
        table.add_column(name, justify="right" if name in ("rows", "files", "MB") else "left")
    for entry in entries:
        table.add_row(*_cells(entry))
    _say(options, [asdict(entry) for entry in entries], table)
    return 0


def _cells(entry: Entry) -> tuple[str, ...]:
    dates = entry.first_date if entry.first_date == entry.last_date else (
        f"{entry.first_date} … {entry.last_date}"
    )  # fmt: skip
    return (
        entry.topic,
        str(entry.partition),
        dates,
        f"{entry.first} … {entry.last}",
        f"{entry.num_rows:,}",
        f"{entry.num_files:,}",
        f"{entry.num_bytes / 1e6:,.1f}",
    )


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)


def _verify(settings: Settings, options: argparse.Namespace) -> int:
    topics = _topics(settings, options)
    with _progress() as progress:
        task = progress.add_task("commits", total=None)
        found = verify(
            settings.event_log_dir,
            topics,
            deep=not options.quick,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    repeated = None if options.quick or not found.is_sound else _num_repeated(settings, topics)
    table = Table(show_header=False)
    table.add_row("events", f"{found.num_rows:,}")
    table.add_row("refused (dead letters)", f"{found.num_refused:,}")
    table.add_row("expired", f"{found.num_expired:,}")
    table.add_row("erased", f"{found.num_erased:,}")
    table.add_row("files that do not count", f"{found.num_leftovers:,}")
    if repeated is not None:
        table.add_row("sent again with the same event id", f"{repeated:,}")
    for problem in found.problems:
        table.add_row("[red]problem[/red]", problem)
    if found.is_sound:
        table.add_row("[green]sound[/green]", "every offset is there once, or accounted for")
    _say(options, asdict(found) | {"num_repeated": repeated, "sound": found.is_sound}, table)
    return 0 if found.is_sound else 1


def _num_repeated(settings: Settings, topics: Sequence[str]) -> int:
    """Count the rows whose event id an earlier row has: what senders sent again."""
    num = 0
    for topic in topics:
        ids = scan(settings.event_log_dir, [topic]).select(pl.col("event_id").drop_nulls())
        counts = ids.select(pl.len(), pl.col("event_id").n_unique().alias("distinct"))
        rows, distinct = counts.collect(engine="streaming").row(0)
        num += rows - distinct
    return num


def _compact(settings: Settings, options: argparse.Namespace) -> int:
    document: dict[str, object] = {}
    table = Table()
    for name in ("topic", "commits", "files", "removed", "seconds"):
        table.add_column(name, justify="left" if name == "topic" else "right")
    for topic in _topics(settings, options):
        began_s = time.monotonic()
        found = _compact_one(settings, topic, CompactionConfig(max_rows=options.max_rows))
        took_s = time.monotonic() - began_s
        document[topic] = asdict(found) | {"seconds": round(took_s, 3)}
        table.add_row(
            topic,
            f"{found.num_commits_before} → {found.num_commits}",
            f"{found.num_files_before} → {found.num_files}",
            str(found.num_swept),
            f"{took_s:.1f}",
        )
    _say(options, document, table)
    return 0


def _compact_one(settings: Settings, topic: str, config: CompactionConfig) -> Compacted:
    with _progress() as progress:
        task = progress.add_task(topic, total=None)
        return compact(
            settings.event_log_dir,
            topic,
            config=config,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _expire(settings: Settings, options: argparse.Namespace) -> int:
    before = _first_date_to_keep(options)
    if not options.force:
        _check_needed(settings, before)
    document: dict[str, object] = {"before": before, "dry_run": options.dry_run}
    table = Table()
    for name in ("topic", "files", "rows", "MB"):
        table.add_column(name, justify="left" if name == "topic" else "right")
    for topic in _topics(settings, options):
        gone = expire(settings.event_log_dir, topic, before=before, dry_run=options.dry_run)
        document[topic] = asdict(gone)
        megabytes = f"{gone.num_bytes / 1e6:,.1f}"
        table.add_row(topic, f"{gone.num_files:,}", f"{gone.num_rows:,}", megabytes)
    _say(options, document, table)
    return 0


def _first_date_to_keep(options: argparse.Namespace) -> str:
    if options.before is not None:
        try:
            return datetime.strptime(options.before, "%Y-%m-%d").date().isoformat()
        except ValueError:
            raise InputError(
                f"--before: wanted a date such as 2025-01-01, found {options.before!r}"
            ) from None
    match = re.fullmatch(r"(\d{1,6})d", options.older_than)
    if match is None:
        raise InputError(f"--older-than: wanted days such as 400d, found {options.older_than!r}")
    return (datetime.now(tz=UTC).date() - timedelta(days=int(match[1]))).isoformat()


def _check_needed(settings: Settings, before: str) -> None:
    """Refuse to remove what a backfill of the declared features would still read."""
    from recsys.features import plan as plans

    plan = plans.load(settings.state_dir / plans.PLAN_FILE)
    reach_ms = max(
        (max([view.ttl_ms, *(a.window_ms for a in view.aggregates)]) for view in plan.views),
        default=0,
    )
    newest = max((e.last_date for topic in topics_of(settings.event_log_dir)
                  for e in catalogue(settings.event_log_dir, topic)), default=before)  # fmt: skip
    reach = timedelta(milliseconds=reach_ms)
    # A sender's clock may be wrong: what is dated ahead of now does not move the present.
    present = min(newest, datetime.now(tz=UTC).date().isoformat())
    needed = (datetime.fromisoformat(present) - reach).date().isoformat()
    if before > needed:
        raise InputError(
            f"wanted to keep what features reach back to ({reach.days} days before the newest "
            f"events: from {needed} on), found --before {before}; a backfill would give other "
            "values than the stream has. Say --force if that is meant"
        )


if __name__ == "__main__":
    sys.exit(main())
