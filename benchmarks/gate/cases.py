"""The kernels that are held: each beside a plain way of the same kind of work.

A case is two calls of some milliseconds in one process on one thread. What counts is the ratio of
their times, so a slower machine or a busier hour changes both. A reference is somebody else's code
wherever it can be, so that our own changes do not move it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from kafka import TopicPartition as ClientPartition
from kafka.consumer.fetcher import Fetcher
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from recsys.events.codec import decode
from recsys.events.kafka.record_batches import PartitionRecords, as_records
from recsys.features import history_codec
from recsys.features.history_codec import Interactions
from recsys.features.offline_store.asof import AsOf
from recsys.features.one_history import history_of
from recsys.models.crosses import cross
from recsys.ranking.dpp import determinantal_greedy
from recsys.ranking.mmr import maximal_marginal_relevance
from recsys.ranking.similarity import VectorSimilarity
from recsys.retrieval.best import best

_BODY = (
    b'{"kind":"interaction","event_id":"e-123456","event_time_ms":1700000000000,'
    b'"user_id":"17850","item_id":"85123A","type":"purchase","value":6.0,'
    b'"request_id":"r-1","position":3}'
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two calls; the ratio is ``ours`` over ``reference``."""

    name: str
    reference_is: str
    ours: Callable[[], object]
    reference: Callable[[], object]


def cases(seed: int) -> Iterator[Case]:
    """Give them one after the other; inputs are drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    yield _events()
    yield _record_batches(rng)
    yield _one_history(rng)
    yield _point_in_time(rng)
    yield _top_k(seed)
    yield from _reranking(rng)
    yield _cross(seed)


def _events() -> Case:
    return Case(
        name="events decoded and checked", reference_is="json.loads",
        ours=lambda: [decode(_BODY) for _ in range(3_000)],
        reference=lambda: [json.loads(_BODY) for _ in range(1_000)],
    )  # fmt: skip


def _record_batches(rng: np.random.Generator) -> Case:
    builder = MemoryRecordsBuilder(2, 0, 1 << 30)
    for after_ms in rng.integers(0, 1_000, 2_000).tolist():
        builder.append(1_796_251_000_000 + after_ms, b"u1", _BODY, headers=[])
    builder.close()
    data = bytearray(builder.buffer())
    struct.pack_into(">q", data, 0, 0)
    at = ClientPartition("behaviour", 0)

    def ours() -> object:
        part = PartitionRecords(0, at, MemoryRecords(bytes(data)))
        return as_records(at.topic, at.partition, part.take(10_000))

    def reference() -> object:
        return Fetcher.PartitionRecords(0, at, MemoryRecords(bytes(data))).take(500)

    return Case(
        name="record batches taken apart", reference_is="kafka-python's fetcher", ours=ours,
        reference=reference,
    )  # fmt: skip


def _one_history(rng: np.random.Generator) -> Case:
    num, moments = 256, np.sort(rng.integers(0, 30 * 86_400_000, 256))
    ids = [f"item-{n:04}".encode() for n in range(120)]
    rows = Interactions(np.zeros(num, np.int64), rng.integers(0, 120, num), moments, ids)
    blob = history_codec.encode(rows, np.arange(num) >= 240, 1)[0]
    plain = json.dumps([[int(t), "item"] for t in moments])
    return Case(
        name="a user's history out of its bytes", reference_is="json.loads of as many rows",
        ours=lambda: [history_of(blob, 1 << 60) for _ in range(40)],
        reference=lambda: [json.loads(plain) for _ in range(40)],
    )  # fmt: skip


def _point_in_time(rng: np.random.Generator) -> Case:
    labels, rows, keys = 20_000, 100_000, 2_000
    codes, latest = rng.integers(0, keys, labels), rng.integers(0, 10**9, labels)
    row_codes, event = rng.integers(0, keys, rows), np.sort(rng.integers(0, 10**9, rows))
    left = pl.DataFrame({"key": codes, "at": latest}).sort("at")
    right = pl.DataFrame({"key": row_codes, "at": event, "row": np.arange(rows)})

    def ours() -> object:
        joined = AsOf(codes, latest)
        joined.add(row_codes, event, np.arange(rows))
        return joined.rows()

    return Case(
        name="point-in-time join", reference_is="Polars' join_asof of sorted frames", ours=ours,
        reference=lambda: left.join_asof(right, on="at", by="key", check_sortedness=False),
    )  # fmt: skip


def _top_k(seed: int) -> Case:
    # Small enough for a second-level cache: how fast memory is changes with the machine's hour.
    scores = torch.randn(4, 60_000, generator=torch.Generator().manual_seed(seed))
    return Case(
        name="100 best of 60,000", reference_is="torch.topk",
        ours=lambda: [best(scores, 100) for _ in range(10)],
        reference=lambda: [scores.topk(100, dim=1) for _ in range(10)],
    )  # fmt: skip


def _reranking(rng: np.random.Generator) -> Iterator[Case]:
    vector = rng.normal(size=(500, 64)).astype(np.float32)
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    score = np.sort(rng.normal(size=500).astype(np.float32))[::-1].copy()

    def plain() -> object:
        """Choose greedily by rows of similarity, as both of ours must at least."""
        closest, chosen = np.zeros(500, np.float32), []
        for _ in range(100):
            place = int(np.argmax(score - closest))
            chosen.append(place)
            closest = np.maximum(closest, vector @ vector[place])
        return chosen

    for name, way in (
        ("re-ranking by MMR", maximal_marginal_relevance),
        ("re-ranking by a DPP", determinantal_greedy),
    ):
        yield Case(
            name=name, reference_is="as many rows of similarity in NumPy", reference=plain,
            ours=lambda way=way: way(score, VectorSimilarity(vector), diversity=0.5, k=100),  # type: ignore[misc]
        )  # fmt: skip


def _cross(seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    crossed, start, inner = (
        torch.randn(1_024, 512, generator=generator, requires_grad=True) for _ in range(3)
    )
    return Case(
        name="a cross step and its gradient", reference_is="the expression in torch",
        ours=lambda: cross(crossed, start, inner).sum().backward(),
        reference=lambda: (crossed + start * inner).sum().backward(),
    )  # fmt: skip
