"""``recsys features probe``: are events servable soon? Tracers through Kafka, worker and Redis.

Sends a tracer event for each view, reads until it is servable, and prints percentiles from the
event's time and from the log's receipt. Exit code 1 when a tracer is lost or a view's p99 since
the log's receipt is over ``--max-p99``, 2 when nothing can be measured. With ``--every`` it goes on
until interrupted, and ``--metrics-port`` shows the histograms to Prometheus.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.endpoints import resolve
from recsys.errors import RecsysError
from recsys.events.kafka.writer import connect_writer
from recsys.features import current_plan
from recsys.features.quality.moments import age
from recsys.features.quality.probe import Probe, ProbeConfig, Trace
from recsys.features.redis_hashes import RedisHashes
from recsys.metrics_page import metrics_page
from recsys.settings import Settings

_PERCENTILES = (50, 90, 99, 100)


class ViewProbe(NamedTuple):
    """What tracers found of one view."""

    view: str
    num_sent: int
    num_lost: int
    event_s: dict[str, float]
    """``p50`` … ``p100`` since the event; empty when all were lost."""
    append_s: dict[str, float]
    """Since the log's receipt."""

    def is_over(self, max_p99_s: float) -> bool:
        """Whether it fails."""
        return self.num_lost > 0 or self.append_s.get("p99", 0.0) > max_p99_s


def main(argv: Sequence[str] | None = None) -> int:
    """Probe; 0 when all is soon enough, 1 when not, 2 when it cannot be measured."""
    parser = argparse.ArgumentParser(
        prog="recsys features probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=20, metavar="N", help="tracers of each view")
    parser.add_argument("--pause", type=float, default=0.1, metavar="S", help="between two of them")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="then it is lost")
    parser.add_argument("--max-p99", type=float, default=1.0, metavar="S", help="allowed (1 s)")
    parser.add_argument("--every", type=float, metavar="S", help="probe again and again")
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help="histograms at /metrics")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.count < 1 or options.timeout <= 0:
        parser.error(f"wanted a count and a timeout above 0, found {options.count} and "
                     f"{options.timeout:g}")  # fmt: skip
    settings = Settings()
    try:
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        endpoints = resolve(settings)
        hashes = RedisHashes(endpoints.require_redis(), from_replicas=True)
        try:
            writer = connect_writer(settings, endpoints)
            try:
                with metrics_page(options.metrics_port, settings.host):
                    config = ProbeConfig(timeout_s=options.timeout)
                    return _run(Probe(plan, writer, hashes, config), options)
            finally:
                writer.close()
        finally:
            hashes.close()
    except RecsysError as error:
        sys.stderr.write(f"recsys features probe: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 0


def _run(probe: Probe, options: argparse.Namespace) -> int:
    probe.prepare()
    while True:
        traces: list[Trace] = []
        for number in range(options.count):
            if number:
                time.sleep(max(options.pause, 0.005))  # a later event has a later millisecond
            traces += probe.round()
        rows = summary(traces)
        over = [row for row in rows if row.is_over(options.max_p99)]
        _print(rows, over, options)
        if options.every is None:
            return 1 if over else 0
        time.sleep(max(options.every, 0.005))


def summary(traces: Sequence[Trace]) -> list[ViewProbe]:
    """Give percentiles by view, in the order of their names; each is a value that was measured."""
    rows = []
    for view in sorted({trace.view for trace in traces}):
        mine = [trace for trace in traces if trace.view == view]
        event = [t.since_event_s for t in mine if t.since_event_s is not None]
        append = [t.since_append_s for t in mine if t.since_append_s is not None]
        rows.append(
            ViewProbe(
                view, len(mine), len(mine) - len(append), _percentiles(event), _percentiles(append)
            )
        )
    return rows


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    values = np.percentile(seconds, _PERCENTILES, method="inverted_cdf")
    return {f"p{p}": float(v) for p, v in zip(_PERCENTILES, values, strict=True)}


def _print(
    rows: Sequence[ViewProbe], over: Sequence[ViewProbe], options: argparse.Namespace
) -> None:
    if options.json:
        document = {
            "max_p99_s": options.max_p99,
            "failed": [row.view for row in over],
            "views": [row._asdict() for row in rows],
        }
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        sys.stdout.flush()
        return
    table = Table()
    table.add_column("view")
    for name in ("sent", "lost", "event p50", "p99", "append p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    for row in rows:
        lost = f"[bold red]{row.num_lost}[/]" if row.num_lost else "0"
        times = [
            *(_spelt(row.event_s, p) for p in (50, 99)),
            *(_spelt(row.append_s, p) for p in _PERCENTILES),
        ]
        table.add_row(row.view, str(row.num_sent), lost, *times)
    console = Console()
    console.print(table)
    allowed = f"p99 since append at most {age(options.max_p99 * 1000)}, none lost"
    if over:
        console.print(f"[bold red]FAIL[/] {', '.join(r.view for r in over)}: wanted {allowed}")
    else:
        console.print(f"[green]PASS[/] {allowed}")


def _spelt(percentiles_s: dict[str, float], p: int) -> str:
    seconds = percentiles_s.get(f"p{p}")
    return "" if seconds is None else age(seconds * 1000)


if __name__ == "__main__":
    sys.exit(main())
