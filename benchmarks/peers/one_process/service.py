"""Run with ``python -m benchmarks.peers.one_process.service --bundle DIR --feast FILE --port N``.

``POST /v1/recommendations`` with ``user_id`` and ``k`` answers as ours does, so that one load
generator can ask either.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import anyio.to_thread
import faiss
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.one_process.features import Features, open_store
from benchmarks.peers.one_process.model import BundleModel
from recsys.bundle.manifest import read_manifest
from recsys.bundle.served import load_served_bundle
from recsys.features.plan import PLAN_FILE, load


class RecommendRequest(BaseModel):
    """What is asked."""

    user_id: str
    k: int = 10


class Item(BaseModel):
    """One item of the answer."""

    item_id: str
    score: float
    position: int
    title: str
    category: str


class RecommendResponse(BaseModel):
    """What is answered."""

    request_id: str
    user_id: str
    items: list[Item]
    rung: str = "full"
    took_ms: float


def make_app(bundle: Path, feast: Path, num_threads: int) -> FastAPI:
    """Give the application; everything is loaded before it answers."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    manifest = read_manifest(bundle)
    served = load_served_bundle(bundle)
    model = BundleModel(bundle, manifest)
    features = Features(open_store(feast), load(bundle / PLAN_FILE), served.vocabulary)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = num_threads
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/recommendations")
    def recommend(request: RecommendRequest) -> RecommendResponse:
        start = perf_counter()
        known = features.user(request.user_id)
        user, vector = model.user(known)
        rows = model.retrieve(vector, known.history_index.values, manifest.num_candidates)  # type: ignore[arg-type]
        item_ids = served.vocabulary.item_ids
        activity = features.items([item_ids[row - 1] for row in rows.tolist()])
        ranked = model.rank(user, vector, rows, activity)
        best = zip(ranked.row[: request.k].tolist(), ranked.score.tolist(), strict=False)
        return RecommendResponse(
            request_id=uuid4().hex,
            user_id=request.user_id,
            items=[
                Item(
                    item_id=item_ids[row - 1],
                    score=score,
                    position=position,
                    title=served.title[row],
                    category=served.category(row),
                )
                for position, (row, score) in enumerate(best)
            ],
            took_ms=(perf_counter() - start) * 1e3,
        )

    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.one_process.service")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--feast", type=Path, required=True, help="a feature_store.yaml")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2, help="requests worked on at once")
    options = parser.parse_args(argv)
    app = make_app(options.bundle, options.feast, options.threads)
    uvicorn.run(
        app, host="127.0.0.1", port=options.port, loop="uvloop", http="httptools",
        access_log=False, log_level="warning",
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
