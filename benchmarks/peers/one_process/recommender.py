"""What every serving peer answers with: features by Feast, candidates by faiss, ranked by torch.

One object for one process. A peer differs from another in how requests reach this one, and in how
many of them at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import faiss
import numpy as np
import torch
from pydantic import BaseModel

from benchmarks.peers.one_process.features import Features, open_store
from benchmarks.peers.one_process.model import BundleModel
from recsys.bundle.manifest import read_manifest
from recsys.bundle.served import load_served_bundle
from recsys.features.batch import Float32s
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
    """What is answered, as ours does, so that one load generator can ask either."""

    request_id: str
    user_id: str
    items: list[Item]
    rung: str = "full"
    took_ms: float


class Recommender:
    """Answers from one bundle and one Feast store. Thread-safe; arithmetic takes one thread."""

    def __init__(self, bundle: Path, feast: Path) -> None:
        """``bundle``: a bundle whose only source is the towers; ``feast``: feature_store.yaml."""
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        manifest = read_manifest(bundle)
        self._count = manifest.num_candidates
        self._served = load_served_bundle(bundle)
        self._model = BundleModel(bundle, manifest)
        vocabulary = self._served.vocabulary
        self._features = Features(open_store(feast), load(bundle / PLAN_FILE), vocabulary)
        gc.collect()
        gc.freeze()  # else a collection looks at all that was loaded, for a third of a second

    def recommend(self, asked: Sequence[RecommendRequest]) -> list[RecommendResponse]:
        """Answer requests together: one read of each kind and one call of each model for all."""
        start = perf_counter()
        known = self._features.users([request.user_id for request in asked])
        user, vectors = self._model.users(known)
        rows = self._model.retrieve(vectors, known.history_index, self._count)
        ranked = self._model.rank(user, vectors, rows, self._activity(rows))
        took_ms = (perf_counter() - start) * 1e3
        return [
            RecommendResponse(
                request_id=uuid4().hex,
                user_id=request.user_id,
                items=self._items(ranked.row[place], ranked.score[place], request.k),
                took_ms=took_ms,
            )
            for place, request in enumerate(asked)
        ]

    def _activity(self, rows: np.ndarray) -> Float32s:
        """Read what moves of candidates ``[B, C]``, each item once; ``[B, C, Fi]``."""
        item_ids = self._served.vocabulary.item_ids
        read, place = np.unique(rows[rows > 0], return_inverse=True)
        found = self._features.items([item_ids[row - 1] for row in read.tolist()])
        activity = np.zeros((*rows.shape, found.shape[1]), np.float32)
        activity[rows > 0] = found[place]
        return activity

    def _items(self, rows: np.ndarray, scores: Float32s, k: int) -> list[Item]:
        served = self._served
        best = zip(rows[:k].tolist(), scores[:k].tolist(), strict=True)
        return [
            Item(
                item_id=served.vocabulary.item_ids[row - 1],
                score=score,
                position=position,
                title=served.title[row],
                category=served.category(row),
            )
            for position, (row, score) in enumerate(best)
            if row > 0
        ]
