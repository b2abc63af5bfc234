"""``recsys features audit``: does training see the features that were served?

Recomputes the user features of logged exposures from the event log at the same moment and says, per
feature, how many are equal, and why the others are not. Exposures are read from Kafka, from the
Parquet log (``--from log``), or from a file of JSON lines. Exit code 1 when more than
``--max-unexplained`` are unexplained, 2 when the audit cannot be done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl
from rich.console import Console
from rich.table import Table

from recsys.endpoints import resolve
from recsys.errors import ConfigurationError, InputError, RecsysError
from recsys.events import event_log
from recsys.events.topics import Topics
from recsys.features import current_plan
from recsys.features.audit.classify import AuditConfig, Auditor, Judged, Verdict
from recsys.features.plan import Plan
from recsys.features.quality.moments import parse_moment
from recsys.feedback.exposure import Exposure, decode_exposure
from recsys.feedback.exposure_log import scan_exposures, to_exposures
from recsys.feedback.logging_bundles import logging_bundles
from recsys.settings import Settings

_NUM_EXAMPLES = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Audit; 0 when explained, 1 when too much is not, 2 when it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="recsys features audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from", dest="source", choices=["kafka", "log"], default="kafka",
        help="where exposures are read: their topic, or the Parquet log, which keeps them longer",
    )  # fmt: skip
    parser.add_argument("--exposures", type=Path, metavar="FILE", help="JSON lines instead")
    parser.add_argument(
        "--since", metavar="TIME", help="first time of answer, ISO 8601 or epoch ms"
    )
    parser.add_argument("--until", metavar="TIME", help="time of answer to stop before")
    parser.add_argument("--limit", type=int, default=10_000, help="exposures at most, the newest")
    parser.add_argument("--max-unexplained", type=int, default=0, help="allowed before failing")
    parser.add_argument(
        "--in-flight", type=float, default=AuditConfig().in_flight_ms / 1000, metavar="S",
        help="records this young at the request may not have been applied (default %(default)g s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    options = parser.parse_args(argv)
    settings = Settings()
    try:
        since_ms = None if options.since is None else parse_moment(options.since)
        until_ms = None if options.until is None else parse_moment(options.until)
        if options.exposures is not None:
            exposures = read_lines(options.exposures)
        elif options.source == "log":
            exposures = read_log(settings, options.limit, since_ms, until_ms)
        else:
            exposures = read_topic(settings, options.limit)
        exposures = [
            e for e in exposures
            if (since_ms is None or e.now_ms >= since_ms)
            and (until_ms is None or e.now_ms < until_ms)
        ][-options.limit :]  # fmt: skip
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        log = _log_for(settings, plan, exposures)
        config = AuditConfig(in_flight_ms=round(options.in_flight * 1000))
        bundles = logging_bundles(settings.bundle_dir, {e.bundle for e in exposures})
        auditor = Auditor(log, plan, bundles, config)
        judged = list(auditor.judge(exposures))
    except RecsysError as error:
        sys.stderr.write(f"recsys features audit: {error}\n")
        return 2
    num_unexplained = sum(j.verdict is Verdict.UNEXPLAINED for j in judged)
    if options.json:
        sys.stdout.write(msgspec.json.encode(report(judged)).decode() + "\n")
    else:
        _print(judged)
    return 1 if num_unexplained > options.max_unexplained else 0


def read_lines(path: Path) -> list[Exposure]:
    """Read exposures, one of JSON in each line.

    Raises:
        ConfigurationError: when the file cannot be read.
        InputError: when a line is none; its number is in the message.
    """
    exposures: list[Exposure] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(f"wanted exposures in {path}, found: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            exposures.append(decode_exposure(line))
        except msgspec.MsgspecError as error:
            raise InputError(f"{path}:{number}: wanted an exposure, found {error}") from error
    return exposures


def read_log(
    settings: Settings, limit: int, since_ms: int | None, until_ms: int | None
) -> list[Exposure]:
    """Read the newest ``limit`` exposures of the Parquet log, oldest first.

    Raises:
        ConfigurationError: when the log is damaged.
    """
    topic = Topics(namespace=settings.namespace).exposures
    scan = scan_exposures(settings.event_log_dir, [topic], start_ms=since_ms, end_ms=until_ms)
    order = ["now_ms", "partition", "offset"]
    # Times first: rows are some KB each, and only the newest are wanted.
    times = scan.select(order).sort(order).tail(limit).collect()
    if times.is_empty():
        return []
    newest = scan.filter(pl.col("now_ms") >= times["now_ms"][0])
    return list(to_exposures(newest.sort(order).tail(limit).collect()))


def read_topic(settings: Settings, limit: int, *, timeout_s: float = 60.0) -> list[Exposure]:
    """Read the newest exposures of the topic, at most ``limit`` from each partition."""
    from recsys.events.kafka import connect_reader

    endpoints = resolve(settings)
    topic = Topics(namespace=settings.namespace).exposures
    # A group without committed positions stands at the beginning.
    reader = connect_reader(
        settings, endpoints, topics=[topic], group=f"{settings.namespace}.audit"
    )
    try:
        first = reader.positions()
        ends = {at: first[at] + lag for at, lag in reader.lag().items()}
        reader.seek({at: max(first[at], end - limit) for at, end in ends.items()})
        exposures: list[Exposure] = []
        deadline = time.monotonic() + timeout_s
        while any(position < ends[at] for at, position in reader.positions().items()):
            polled = reader.poll(timeout_ms=500, max_records=5_000)
            exposures += [decode_exposure(record.value) for record in polled]
            if time.monotonic() > deadline:
                raise ConfigurationError(f"{topic} could not be read within {timeout_s:g} s")
        return sorted(exposures, key=lambda e: e.now_ms)[-limit:]
    finally:
        reader.close()


def _log_for(settings: Settings, plan: Plan, exposures: Sequence[Exposure]) -> pl.DataFrame:
    if not exposures:
        raise ConfigurationError(
            "wanted exposures, found none: the API writes one for each answer (`recsys up`) to "
            "Kafka; see --from, --since and --until"
        )
    topics = Topics(namespace=plan.project)
    users = sorted({exposure.user_id for exposure in exposures})
    scan = event_log.scan(settings.event_log_dir, [topics.items, topics.behaviour])
    is_theirs = pl.col("user_id").is_in(users) | (pl.col("kind") == "item")
    return scan.filter(is_theirs).collect()


def report(judged: Sequence[Judged]) -> dict[str, object]:
    """Give counts by feature and verdict, and examples of what is not equal."""
    features: dict[str, Counter[str]] = {}
    examples: list[dict[str, object]] = []
    shown: Counter[tuple[str, Verdict]] = Counter()
    for j in judged:
        name = f"{j.view}:{j.feature}"
        features.setdefault(name, Counter())[j.verdict.value] += 1
        shown[name, j.verdict] += 1
        if j.verdict is not Verdict.EQUAL and shown[name, j.verdict] <= _NUM_EXAMPLES:
            examples.append(j._asdict())
    total = Counter(j.verdict.value for j in judged)
    num = len({j.request_id for j in judged})
    return {"num_exposures": num, "total": total, "features": features, "examples": examples}


def _print(judged: Sequence[Judged]) -> None:
    console = Console()
    table = Table()
    table.add_column("feature")
    for verdict in Verdict:
        table.add_column(verdict.value, justify="right")
    counts: dict[tuple[str, str], Counter[Verdict]] = {}
    for j in judged:
        counts.setdefault((j.view, j.feature), Counter())[j.verdict] += 1
    for (view, feature), found in counts.items():
        table.add_row(f"{view}:{feature}", *(str(found[v] or "") for v in Verdict))
    console.print(table)
    odd = [j for j in judged if j.verdict is not Verdict.EQUAL]
    order = list(Verdict)
    for j in sorted(odd, key=lambda j: -order.index(j.verdict))[:_NUM_EXAMPLES]:
        console.print(
            f"{j.verdict.value}: request {j.request_id}, user {j.user_id}, {j.view}:{j.feature}: "
            f"served {j.served or '?'}, recomputed {j.recomputed or '?'}",
            highlight=False, markup=False,
        )  # fmt: skip
    num = len({j.request_id for j in judged})
    equal = len(judged) - len(odd)
    console.print(f"{num} exposures, {len(judged)} features: {equal} equal, {len(odd)} not")


if __name__ == "__main__":
    sys.exit(main())
