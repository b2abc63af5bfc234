"""Run with ``python -m benchmarks.peers.ray_serve.service --bundle DIR --feast FILE --port N``.

In an environment with Ray Serve (``requirements.txt`` beside this). ``settings`` are the ones that
Ray documents for throughput: HAProxy instead of the Python proxy, and the throughput-optimised
flags, which let a replica's HTTP and its method share an event loop; as they ask, nothing blocks
that loop: the work is done in a thread. A replica for each core, each with one thread for torch.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def settings(folder: Path, first_port: int) -> dict[str, str]:
    """Give Ray's environment; ``first_port`` and the next are HAProxy's own."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(first_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(first_port + 1),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.ray_serve.service")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--feast", type=Path, required=True, help="a feature_store.yaml")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="short: sockets lie in it")
    parser.add_argument("--own-ports", type=int, required=True, help="the first of two for HAProxy")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--max-ongoing", type=int, default=100, help="requests of a replica")
    parser.add_argument("--max-batch", type=int, default=1, help="requests answered together")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    # Ray Serve reads them when it is imported, its processes when they are started.
    os.environ.update(settings(options.folder, options.own_ports))
    _serve(options)
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    signal.sigwait(stop)
    _stop()
    return 0


def _serve(options: argparse.Namespace) -> None:
    import ray
    from ray import serve

    from benchmarks.peers.one_process.recommender import Recommender, RecommendRequest

    ray.init(
        address="local", num_cpus=max(2, options.replicas), include_dashboard=False,
        log_to_driver=False, _temp_dir=str(options.folder / "ray"),
        object_store_memory=128 * 2**20,
    )  # fmt: skip
    serve.start(
        http_options=serve.HTTPOptions(host="127.0.0.1", port=options.port),
        logging_config={"enable_access_log": False},
    )
    max_batch = options.max_batch

    @serve.deployment(
        num_replicas=options.replicas,
        max_ongoing_requests=options.max_ongoing,
        ray_actor_options={"num_cpus": 1},
    )
    class Recommendations:
        def __init__(self, bundle: Path, feast: Path) -> None:
            self._recommender = Recommender(bundle, feast)
            self._pool = ThreadPoolExecutor(1)

        @serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=0.0)
        async def _together(self, asked: list[RecommendRequest]) -> list[Any]:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._pool, self._recommender.recommend, asked)
            return [answer.model_dump_json() for answer in answers]

        async def __call__(self, request: Any) -> Any:
            from starlette.responses import Response

            asked = RecommendRequest.model_validate_json(await request.body())
            return Response(await self._together(asked), media_type="application/json")

    application = Recommendations.bind(options.bundle, options.feast)
    serve.run(application, route_prefix="/v1/recommendations")


def _stop() -> None:
    import ray
    from ray import serve

    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
