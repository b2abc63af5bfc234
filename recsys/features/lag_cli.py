"""``recsys lag [--wait]``: how many records are not yet features, and not yet in the event log.

With ``--wait`` it returns once both are zero; the workers on this machine are asked to write their
buffers to the event log now instead of when they are full or a minute old.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from recsys.endpoints import Endpoints, resolve
from recsys.errors import RecsysError, ServerError
from recsys.features.lag import PartitionLag, measure_lag
from recsys.features.worker_files import ask_to_store
from recsys.settings import Settings

_POLL_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Show or await the lag; 0 when there is none, 1 when there is, 2 when it cannot be had."""
    parser = argparse.ArgumentParser(
        prog="recsys lag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wait", action="store_true", help="return when there is no lag")
    parser.add_argument("--timeout", type=float, default=600.0, help="longest wait, seconds")
    arguments = parser.parse_args(argv)
    settings = Settings()
    console = Console(stderr=True)
    try:
        endpoints = resolve(settings)
        if arguments.wait:
            wait_for_worker(settings, endpoints, console, timeout_s=arguments.timeout)
            return 0
        lags = measure_lag(settings, endpoints)
    except RecsysError as error:
        sys.stderr.write(f"recsys lag: {error}\n")
        return 2
    Console().print(_table(lags))
    return 0 if all(lag.num_unapplied == 0 for lag in lags) else 1


def wait_for_worker(
    settings: Settings, endpoints: Endpoints, console: Console, *, timeout_s: float
) -> None:
    """Return once everything in Kafka is servable and in the event log.

    Raises:
        ServerError: when that took longer than ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        applied = progress.add_task("features in the online store", total=None)
        written = progress.add_task("events in the event log", total=None)
        while True:
            lags = measure_lag(settings, endpoints)
            total = sum(lag.end for lag in lags)
            unapplied = sum(lag.num_unapplied for lag in lags)
            unwritten = sum(lag.num_unwritten for lag in lags)
            progress.update(applied, total=total, completed=total - unapplied)
            progress.update(written, total=total, completed=total - unwritten)
            if unapplied == 0 and unwritten == 0:
                return
            if unapplied == 0:
                ask_to_store(settings)
            if time.monotonic() > deadline:
                raise ServerError(
                    f"wanted no lag within {timeout_s:g} s, found {unapplied} records not applied "
                    f"and {unwritten} not in the event log; see `recsys logs stream_worker`"
                )
            time.sleep(_POLL_S)


def _table(lags: Sequence[PartitionLag]) -> Table:
    table = Table()
    for name in ("topic", "partition", "end", "not applied", "not in the event log"):
        table.add_column(name, justify="left" if name == "topic" else "right")
    for lag in lags:
        numbers = (lag.at.partition, lag.end, lag.num_unapplied, lag.num_unwritten)
        table.add_row(lag.at.topic, *map(str, numbers))
    return table


if __name__ == "__main__":
    sys.exit(main())
