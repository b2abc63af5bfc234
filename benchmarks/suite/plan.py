"""Which benchmarks ``make bench`` runs, and with what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A module below ``benchmarks`` with a ``main`` that prints a line of JSON."""

    name: str
    arguments: tuple[str, ...] = ()
    """Of ``make bench``; whoever wants others runs the module by itself."""
    with_servers: bool = False
    """Whether it wants a Kafka and a Redis; the suite starts both for it."""
    with_system: bool = False
    """Whether it wants the system of ``benchmarks.loadtest.throughput prepare``; the suite prepares
    one, which all such share, and says where by ``--state DIR``."""


PLAN = (
    Benchmark(name="event_codec"),
    Benchmark(name="event_sink"),
    Benchmark(name="event_spool"),
    Benchmark(name="features.online_read"),
    Benchmark(name="features.online_write"),
    Benchmark(
        name="features.offline_join",
        arguments=(
            *("--labels", "10000,1000000", "--rounds", "2"),
            *("--engines", "ours,feast_duckdb,polars"),
        ),
    ),
    Benchmark(name="features.backfill_rate"),
    Benchmark(name="limits", with_servers=True),
    Benchmark(
        name="features.stream_rate",
        arguments=("--rounds", "3", "--views", "user_activity,item_activity"),
        with_servers=True,
    ),
    Benchmark(name="features.stream_servable", with_servers=True),
    Benchmark(name="features.stream_peers", with_servers=True),
    Benchmark(name="reranking"),
    Benchmark(name="retrieval.search", arguments=("--no-index",)),
    Benchmark(name="loadtest.throughput", arguments=("ours",), with_system=True),
    Benchmark(name="loadtest.swap", arguments=("--rate", "100"), with_system=True),
    Benchmark(name="training.ranker"),
    Benchmark(name="training.sequences"),
)
"""In the order they run: those that want servers or a system together, the longest last."""

RUN_ALONE = (
    "capacity.scaling",
    "features.item_feed",
    "features.state_bytes",
    "features.stream_users",
    "loadtest.overhead",
    "loadtest.soak",
    "peers.serving",
    "retrieval.live_catalogue",
    "retrieval.live_index",
    "training.collaborative",
)
"""They want a data set, other services or half an hour, and are run as ``benchmarks.NAME``."""
