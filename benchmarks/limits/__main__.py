"""``python -m benchmarks.limits``: what the machine gives at best, and our kernels' share of it.

Matrix products of our kernels' sizes and reading and copying memory, by one thread and by all;
Redis, Kafka and HTTP with nothing behind them; and exact search beside the product and the memory's
rate it depends on. Limits are the best that was seen, not medians. Kafka must run (``recsys up
--only kafka``; ``python -m benchmarks limits`` starts one). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.limits.arithmetic import memory_gb_s, products_gflops, thread_counts
from benchmarks.limits.http_echo import http_limits
from benchmarks.limits.kafka_loop import kafka_limits
from benchmarks.limits.redis_rate import redis_limits
from benchmarks.limits.shares import exact_search
from recsys.inference.threads import torch_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; print one JSON result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.limits", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=0.6, help="of each single figure")
    parser.add_argument("--events", type=int, default=100_000, help="in Kafka")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    products, memory = {}, {}
    for count in thread_counts():
        with torch_threads(count):
            said = "1 thread" if count == 1 else f"{count} threads"
            products[said] = products_gflops(options.seconds, options.seed)
            memory[said] = memory_gb_s(options.seconds)
    result = {
        "benchmark": "limits",
        "seed": options.seed,
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "products_gflops": products,
        "memory_gb_s": memory,
        "exact_search": exact_search(options.seconds, options.seed),
        "redis": redis_limits(options.seconds),
        "kafka": kafka_limits(options.events, rounds=3),
        "http": http_limits(max(1.0, 3 * options.seconds), options.seed),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
