"""Run with ``python -m benchmarks.peers.bentoml.service --bundle DIR --feast FILE --port N``.

In an environment with BentoML (``requirements.txt`` beside this). It becomes ``bentoml serve``. As
its documentation says for a CPU: a worker process for each core, one thread in each for work that
blocks, no access log. With ``--max-batch`` a service before them takes the requests, and BentoML's
adaptive batching, which the workers do, puts together what comes at one time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import bentoml

from benchmarks.peers.one_process.recommender import (
    Recommender,
    RecommendRequest,
    RecommendResponse,
)

_ARGUMENTS = "RECSYS_PEER_ARGUMENTS"
_ROUTE = "/v1/recommendations"
_QUIET = {"access": {"enabled": False}}
_ROOT = Path(__file__).parents[3]

_bundle, _feast, _workers, _max_batch = json.loads(os.environ.get(_ARGUMENTS, '["", "", 1, 1]'))


@bentoml.service(workers=_workers, threads=1, logging=_QUIET)
class Alone:
    """Answers one request at a time in each worker."""

    def __init__(self) -> None:
        """Load everything, once in each worker."""
        self._recommender = Recommender(Path(_bundle), Path(_feast))

    @bentoml.api(route=_ROUTE)
    def recommend(self, user_id: str, k: int = 10) -> RecommendResponse:
        """Answer one request."""
        return self._recommender.recommend([RecommendRequest(user_id=user_id, k=k)])[0]


@bentoml.service(workers=_workers, threads=1, logging=_QUIET)
class Together:
    """Answers in each worker what came together."""

    def __init__(self) -> None:
        """Load everything, once in each worker."""
        self._recommender = Recommender(Path(_bundle), Path(_feast))

    @bentoml.api(batchable=True, max_batch_size=max(_max_batch, 2))  # it refuses one
    def recommend(self, asked: list[RecommendRequest]) -> list[RecommendResponse]:
        """Answer requests in their order."""
        return self._recommender.recommend(asked)


@bentoml.service(logging=_QUIET)
class Batched:
    """Takes requests one by one and hands them to ``Together``."""

    together = bentoml.depends(Together)

    @bentoml.api(route=_ROUTE)
    async def recommend(self, user_id: str, k: int = 10) -> RecommendResponse:
        """Answer one request."""
        asked = [RecommendRequest(user_id=user_id, k=k)]
        answers: list[RecommendResponse] = await self.together.to_async.recommend(asked)
        return answers[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Become the server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.bentoml.service")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--feast", type=Path, required=True, help="a feature_store.yaml")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=1, help="requests answered together")
    options = parser.parse_args(argv)
    os.environ[_ARGUMENTS] = json.dumps(
        [str(options.bundle), str(options.feast), options.workers, options.max_batch]
    )
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    service = "Batched" if options.max_batch > 1 else "Alone"
    os.chdir(_ROOT)
    os.execv(
        sys.executable,
        [
            sys.executable, "-m", "bentoml", "serve", f"benchmarks.peers.bentoml.service:{service}",
            "--host", "127.0.0.1", "--port", str(options.port),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
