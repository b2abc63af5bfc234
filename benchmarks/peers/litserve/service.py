"""Run with ``python -m benchmarks.peers.litserve.service --bundle DIR --feast FILE --port N``.

In an environment with LitServe (``requirements.txt`` beside this). As its reference says for a
CPU: a worker process for each core, as many processes for HTTP (the default), the fast queue for
many requests, the log at warnings.
"""

# No postponed annotations: LitServe hands the class that ``decode_request`` takes to FastAPI.
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litserve as ls

from benchmarks.peers.one_process.recommender import (
    Recommender,
    RecommendRequest,
    RecommendResponse,
)

_BATCH_TIMEOUT_S = 0.01
"""As its examples have it; with 0 an idle worker asks its queue without rest."""


class Recommendations(ls.LitAPI):  # type: ignore[misc]
    """What each worker runs; with batches ``predict`` is given lists."""

    def __init__(self, bundle: Path, feast: Path, max_batch: int) -> None:
        super().__init__(
            max_batch_size=max_batch, batch_timeout=_BATCH_TIMEOUT_S, api_path="/v1/recommendations"
        )
        self._where = bundle, feast

    def setup(self, device: str) -> None:
        """Load everything, once in each worker."""
        self._recommender = Recommender(*self._where)

    def decode_request(self, request: RecommendRequest) -> RecommendRequest:
        """Give what ``predict`` takes."""
        return request

    def batch(self, inputs: list[RecommendRequest]) -> list[RecommendRequest]:
        """Keep a list: features are read and put together inside."""
        return inputs

    def predict(self, asked: Any) -> Any:
        """Answer one request, or a list of them."""
        if isinstance(asked, list):
            return self._recommender.recommend(asked)
        return self._recommender.recommend([asked])[0]

    def unbatch(self, output: list[RecommendResponse]) -> list[RecommendResponse]:
        """Give the answers one by one."""
        return output

    def encode_response(self, output: RecommendResponse) -> dict[str, Any]:
        """Give plain data, which FastAPI writes."""
        return output.model_dump()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.litserve.service")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--feast", type=Path, required=True, help="a feature_store.yaml")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=1, help="requests answered together")
    options = parser.parse_args(argv)
    server = ls.LitServer(
        Recommendations(options.bundle, options.feast, options.max_batch),
        accelerator="cpu", devices=1, workers_per_device=options.workers, fast_queue=True,
    )  # fmt: skip
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
