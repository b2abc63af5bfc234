"""``recsys features freshness``: how soon events are servable, by view, since the workers started.

Reads the histograms of every stream worker of this machine from its ``/metrics`` and adds them up.
Exit code 2 when no worker answers.
"""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from recsys.errors import ConfigurationError, RecsysError
from recsys.features.quality.moments import age
from recsys.settings import Settings

PERCENTILES = (50, 90, 99)
_HISTOGRAMS = {
    "recsys_append_to_servable_seconds": "append",
    "recsys_event_to_servable_seconds": "event",
}
_MAX_WORKERS = 64
_TIMEOUT_S = 2.0


class ViewFreshness(NamedTuple):
    """One view, one way to measure."""

    view: str
    since: str
    """``append`` or ``event``."""
    num_events: int
    percentiles_s: dict[str, float]
    """``p50`` …; infinite when it lies beyond the last bucket."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print; 0 when a worker answered, 2 when none did."""
    parser = argparse.ArgumentParser(
        prog="recsys features freshness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", action="append", help="of a worker's metrics; may be repeated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        pages = [_page(url) for url in options.url] if options.url else own_pages(Settings())
    except RecsysError as error:
        sys.stderr.write(f"recsys features freshness: {error}\n")
        return 2
    rows = freshness_of(pages)
    if options.json:
        views = [{**row._asdict(), "percentiles_s": _finite(row.percentiles_s)} for row in rows]
        document = {"num_workers": len(pages), "views": views}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        _print(rows, len(pages))
    return 0


def own_pages(settings: Settings) -> list[str]:
    """Give the metrics of the workers of this machine, which are on consecutive ports.

    Raises:
        ConfigurationError: when not even the first answers.
    """
    if settings.worker_metrics_port == 0:
        raise ConfigurationError(
            "wanted the port of the worker's metrics, found RECSYS_WORKER_METRICS_PORT=0 (off)"
        )
    pages: list[str] = []
    for number in range(_MAX_WORKERS):
        url = f"http://{settings.host}:{settings.worker_metrics_port + number}/metrics"
        try:
            pages.append(_page(url))
        except ConfigurationError:
            if number == 0:
                raise
            break
    return pages


def freshness_of(pages: Iterable[str]) -> list[ViewFreshness]:
    """Add up the histograms of some ``/metrics`` pages; views in the order of their names."""
    counts: dict[tuple[str, str], dict[float, float]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            since = _HISTOGRAMS.get(family.name)
            for sample in family.samples if since else ():
                if since and sample.name.endswith("_bucket"):
                    buckets = counts.setdefault((sample.labels["view"], since), {})
                    bound = float(sample.labels["le"])
                    buckets[bound] = buckets.get(bound, 0.0) + sample.value
    rows = []
    for (view, since), buckets in sorted(counts.items()):
        found = {f"p{p}": quantile(buckets, p / 100) for p in PERCENTILES}
        rows.append(ViewFreshness(view, since, int(max(buckets.values())), found))
    return rows


def quantile(buckets: dict[float, float], q: float) -> float:
    """Give a quantile of cumulative counts by upper bound, linear within a bucket.

    NaN when nothing was counted; infinite beyond the last finite bound (Prometheus gives that
    bound, which reads as a measurement and is none).

    >>> quantile({1.0: 5, 2.0: 10, float("inf"): 10}, 0.75)
    1.5
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]]
    if not total:
        return float("nan")
    low, before = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= q * total:
            inside = buckets[bound] - before
            if bound == float("inf") or not inside:
                return bound
            return low + (bound - low) * (q * total - before) / inside
        low, before = bound, buckets[bound]
    return float("inf")


def _page(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f'wanted an address http://… of a worker\'s metrics, found "{url}"'
        )
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"wanted a stream worker's metrics at {url}, found {error}; is `recsys up` running?"
        ) from error


def _finite(percentiles_s: dict[str, float]) -> dict[str, float | None]:
    """Give JSON's null for what JSON cannot hold."""
    return {n: v if abs(v) < float("inf") else None for n, v in percentiles_s.items()}


def _print(rows: Sequence[ViewFreshness], num_workers: int) -> None:
    table = Table()
    table.add_column("view")
    table.add_column("since")
    for name in ("events", *(f"p{p}" for p in PERCENTILES)):
        table.add_column(name, justify="right")
    for row in rows:
        shown = [_spelt(v) for v in row.percentiles_s.values()]
        table.add_row(row.view, row.since, f"{row.num_events:,}", *shown)
    console = Console()
    console.print(table)
    console.print(f"{num_workers} worker{'s' * (num_workers != 1)}, since they started")


def _spelt(seconds: float) -> str:
    if seconds == float("inf"):
        return "over a day"
    return "" if seconds != seconds else age(seconds * 1000)


if __name__ == "__main__":
    sys.exit(main())
