"""Run with ``python -m benchmarks.peers.one_process.service --bundle DIR --feast FILE --port N``.

FastAPI and uvicorn (uvloop, httptools), one process with a small pool of threads, or several.
``POST /v1/recommendations`` with ``user_id`` and ``k`` answers as ours does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import uvicorn
from fastapi import FastAPI

from benchmarks.peers.one_process.recommender import (
    Recommender,
    RecommendRequest,
    RecommendResponse,
)

_ARGUMENTS = "RECSYS_PEER_ARGUMENTS"


def make_app(bundle: Path, feast: Path, num_threads: int) -> FastAPI:
    """Give the application; everything is loaded before it answers."""
    recommender = Recommender(bundle, feast)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = num_threads
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/recommendations")
    def recommend(request: RecommendRequest) -> RecommendResponse:
        return recommender.recommend([request])[0]

    return app


def application() -> FastAPI:
    """Give the application in a worker, which uvicorn tells nothing else."""
    bundle, feast, num_threads = json.loads(os.environ[_ARGUMENTS])
    return make_app(Path(bundle), Path(feast), num_threads)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.one_process.service")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--feast", type=Path, required=True, help="a feature_store.yaml")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2, help="requests worked on at once")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args(argv)
    arguments = str(options.bundle), str(options.feast), options.threads
    os.environ[_ARGUMENTS] = json.dumps(arguments)
    uvicorn.run(
        "benchmarks.peers.one_process.service:application", factory=True, workers=options.workers,
        host="127.0.0.1", port=options.port, loop="uvloop", http="httptools",
        access_log=False, log_level="warning",
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
