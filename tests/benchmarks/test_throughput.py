"""The load benchmark: its generator, its search, and the service ours is measured beside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmarks.loadtest.greatest_rate import Step, find_greatest, greatest
from benchmarks.loadtest.kernels import users
from benchmarks.loadtest.paced import Paced, run_paced
from benchmarks.loadtest.untrained_bundle import TOWERS_ONLY, add_untrained_bundle
from benchmarks.peers.one_process.model import BundleModel
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.features import current_plan
from recsys.inference.compute import answer

_BODY = b'{"rung":"full"}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class _OneAtATime(asyncio.Protocol):
    """A server that answers one request at a time, each so long after it took it up."""

    transports: ClassVar[list[asyncio.BaseTransport]] = []

    def __init__(self, turn: asyncio.Lock, delay_s: float) -> None:
        self._turn, self._delay_s = turn, delay_s
        self._answers: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transports.append(transport)

    def data_received(self, data: bytes) -> None:
        self._answers.add(asyncio.get_running_loop().create_task(self._answer()))

    async def _answer(self) -> None:
        async with self._turn:
            await asyncio.sleep(self._delay_s)
            self.transport.write(_ANSWER)  # type: ignore[attr-defined]


async def _paced(due_s: list[float], delay_s: float, max_waiting: int = 100) -> Paced:
    turn = asyncio.Lock()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _OneAtATime(turn, delay_s), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    request = b"POST / HTTP/1.1\r\n\r\n"
    try:
        return await run_paced(
            [request] * len(due_s),
            np.array(due_s),
            host="127.0.0.1",
            port=port,
            max_waiting=max_waiting,
        )
    finally:
        for transport in _OneAtATime.transports:
            transport.close()
        _OneAtATime.transports.clear()
        server.close()
        await asyncio.sleep(0)


def test_what_waits_behind_a_slow_answer_is_counted_from_when_it_was_due() -> None:
    paced = asyncio.run(_paced([0.0, 0.0, 0.0], delay_s=0.05))
    assert paced.answers == {"200 full": 3}
    np.testing.assert_allclose(np.sort(paced.latency_s), [0.05, 0.10, 0.15], atol=0.04)
    assert paced.percentile_ms(99) >= 140


def test_a_run_ends_when_the_server_has_lost() -> None:
    paced = asyncio.run(_paced(list(np.arange(0, 1, 0.002)), delay_s=1.0, max_waiting=20))
    assert paced.given_up
    assert paced.answers["unanswered"] > 20
    assert paced.percentile_ms(99) == float("inf")


def _step(rate: float, limit: float) -> Step:
    kept = rate <= limit
    return Step(
        rate=rate, sent=1, answered_per_s=rate, p50_ms=1, p95_ms=1, p99_ms=1, late_p99_ms=0,
        answers={}, given_up=False, generator_cpu_s=0, cpu_s={}, kept=kept,
        refused="" if kept else "slow",
    )  # fmt: skip


@pytest.mark.parametrize("limit", [3.0, 40.0, 777.0])
def test_the_search_ends_within_its_tolerance_below_the_limit(limit: float) -> None:
    steps = find_greatest(
        lambda rate: _step(rate, limit), start=50.0, tolerance=0.05, report=lambda _: None
    )
    best = greatest(steps)
    assert best is not None
    assert limit / 1.06 < best.rate <= limit


def test_a_rate_kept_by_luck_above_a_refused_one_does_not_count() -> None:
    steps = [_step(100, 1000), _step(200, 1), _step(400, 1000)]
    best = greatest(steps)
    assert best is not None
    assert best.rate == 100


def test_the_peer_gives_the_same_list_on_the_same_features(tmp_path: Path) -> None:
    plan = current_plan.ensure(tmp_path / "var", project="peer")
    bundle_dir = tmp_path / "bundles"
    bundle_id = add_untrained_bundle(bundle_dir, plan, num_items=3000, mix=TOWERS_ONLY, seed=3)
    path = bundle_dir / bundle_id
    ours = load_serving_model(path)
    activity = torch.rand(3001, ours.dimensions.num_item_features) * 5
    activity[0] = 0
    ours.set_item_activity(activity, 0)
    inputs = users(ours.dimensions, ours.num_items, 1)
    found = answer(ours, inputs, num_candidates=500)
    peer = BundleModel(path, read_manifest(path))
    vector = ours.user_vectors(inputs)
    rows = peer.retrieve(vector, inputs["history_index"][0].numpy(), 500)
    ranked = peer.rank(inputs, vector, rows, activity[rows].numpy())
    np.testing.assert_allclose(ranked.score[:20], found["score"][0].numpy(), atol=1e-5)
    # Equal scores may change places.
    assert len(set(ranked.row[:20]) & set(found["item_index"][0].tolist())) >= 19
