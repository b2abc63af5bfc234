"""The simulated cluster: the rules of the real parts, failures, and one answer for one seed."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from benchmarks.capacity.simulation.balancing import Balancer, Policy
from benchmarks.capacity.simulation.cluster import Cluster
from benchmarks.capacity.simulation.draws import Draws
from benchmarks.capacity.simulation.events import Events
from benchmarks.capacity.simulation.gathering import Gathering
from benchmarks.capacity.simulation.profile import (
    ApiCosts,
    ModelCosts,
    PerCall,
    Profile,
    ServerCosts,
    Warmth,
)
from benchmarks.capacity.simulation.shape import Failure, RandomFailures, Shape, parse_failure
from benchmarks.loadtest.arrivals import poisson_arrivals_s
from recsys.errors import InputError
from recsys.inference.batching import AdaptiveBatcher, BatchingConfig
from recsys.resilience.hedge_rule import HedgeRule

LEAST: Policy = "least-outstanding"
FREE = PerCall(call_s=0.0, user_s=0.0)
USER_S = 0.01
"""What the only thing that costs anything costs: a user in the model server."""
PLAIN = Profile(
    name="plain", machine={}, commit="", measured_at="", made_of=[], cores=2, together=1.0,
    hop_s=0.0, generator_s=0.0,
    api=ApiCosts(
        head_s=0.0, receive_s=0.0, read=FREE, decode=FREE, call=FREE, reply=FREE, finish_s=0.0,
        memory_s=0.0, exposure_s=0.0, warmth=Warmth(),
    ),
    redis=ServerCosts(work=FREE),
    model=ModelCosts(
        front=FREE, batch=PerCall(call_s=0.0, user_s=USER_S), rank_share=0.0, warmth=Warmth()
    ),
    log=ServerCosts(work=FREE), background=[],
)  # fmt: skip


def simulated(
    shape: Shape, rate: float, duration_s: float, *, profile: Profile = PLAIN, seed: int = 1,
    failures: Sequence[Failure] = (),
) -> Cluster:  # fmt: skip
    cluster = Cluster(profile, shape, seed=seed)
    cluster.fail(failures)
    rng = np.random.default_rng(seed)
    due_s = poisson_arrivals_s(rate_per_s=rate, duration_s=duration_s, rng=rng)
    cluster.run(due_s, duration_s + shape.timeout_s)
    assert len(cluster.outcomes.labels) == len(due_s), "every request ends"
    return cluster


def full_a_second(cluster: Cluster, begin_s: float, end_s: float) -> float:
    part = cluster.outcomes.between(begin_s, end_s)
    ranked = part.answers.get("200 full", 0) + part.answers.get("200 retrieval", 0)
    return ranked / (end_s - begin_s)


def test_one_of_two_model_servers_away_leaves_the_capacity_of_one() -> None:
    shape = Shape(
        api=2, model_servers=2, model_policy="round-robin", target_ms=100.0, detect_s=0.2,
        return_s=0.2,
    )  # fmt: skip
    rate = 1.3 / USER_S
    cluster = simulated(
        shape, rate, 40.0, failures=[Failure(at_s=10.0, lasts_s=15.0, node="model-2")]
    )
    assert full_a_second(cluster, 2.0, 10.0) == pytest.approx(rate, rel=0.06)
    assert full_a_second(cluster, 12.0, 25.0) == pytest.approx(1.0 / USER_S, rel=0.05)
    assert full_a_second(cluster, 28.0, 40.0) == pytest.approx(rate, rel=0.06)
    assert cluster.outcomes.between(0.0, 40.0).share("error") == 0.0
    before, after = (cluster.outcomes.between(a, b) for a, b in ((2.0, 10.0), (30.0, 40.0)))
    assert after.percentile_ms(50) == pytest.approx(before.percentile_ms(50), rel=0.5)


def test_admission_keeps_the_time_of_what_is_answered_and_refuses_the_rest() -> None:
    offered = 6.0 / USER_S
    held = simulated(Shape(), offered, 20.0)
    free = simulated(Shape(target_ms=0.0), offered, 20.0)
    part = held.outcomes.between(5.0, 20.0)
    assert part.answers["200 full"] / 15.0 == pytest.approx(1.0 / USER_S, rel=0.1)
    assert part.answers["200 similar"] > 0 and part.answers["503"] > 0
    assert part.percentile_ms(95) < 120.0
    late = free.outcomes.between(5.0, 20.0)
    # Without it all wait for a model server that is late for everybody, until its breaker opens.
    assert late.answers["200 full"] / 15.0 < 0.2 / USER_S
    assert late.share("503") == 0.0


def test_a_killed_api_process_costs_no_request_where_one_may_be_sent_again() -> None:
    failure = [Failure(at_s=3.0, lasts_s=3.0, node="api-1")]
    shape = Shape(api=4, api_per_machine=1, model_servers=4, model_policy=LEAST, target_ms=0.0)
    again = simulated(shape, 150.0, 9.0, failures=failure)
    assert again.outcomes.between(0.0, 9.0).share("error") == 0.0
    assert again.outcomes.retries > 0
    never = simulated(replace(shape, retries=0), 150.0, 9.0, failures=failure)
    assert never.outcomes.between(3.0, 4.0).share("error") == pytest.approx(0.25, abs=0.1)
    assert never.outcomes.between(4.1, 6.0).share("error") == 0.0, "noticed after a second"


def test_a_silent_machine_is_noticed_late() -> None:
    failure = Failure(at_s=3.0, lasts_s=3.0, node="api-1", silently=True)
    shape = Shape(
        api=2, api_per_machine=1, model_servers=2, model_policy=LEAST, target_ms=0.0, detect_s=0.5
    )
    cluster = simulated(shape, 100.0, 8.0, failures=[failure])
    part = cluster.outcomes.between(3.05, 3.45)
    assert part.latency_ms.max() == pytest.approx(5_000.0, abs=30.0), "sent into the silence"
    assert cluster.outcomes.between(3.6, 6.0).share("error") == 0.0


def test_a_redis_that_is_away_is_answered_from_memory_and_comes_back() -> None:
    failure = Failure(at_s=3.0, lasts_s=3.0, node="redis-1")
    cluster = simulated(Shape(model_servers=1), 50.0, 12.0, failures=[failure])
    assert cluster.outcomes.between(0.5, 2.9).share("200 full") == 1.0
    assert cluster.outcomes.between(4.5, 6.0).share("200 similar") == 1.0
    assert cluster.outcomes.between(10.0, 12.0).share("200 full") > 0.99
    assert cluster.outcomes.between(0.0, 12.0).share("error") == 0.0


def test_a_model_server_that_falls_silent_is_answered_without_and_nobody_is_refused() -> None:
    quick = msgspec.structs.replace(
        PLAIN,
        model=msgspec.structs.replace(
            PLAIN.model, batch=msgspec.structs.replace(PLAIN.model.batch, user_s=0.001)
        ),
    )
    failure = Failure(at_s=4.0, lasts_s=3.0, silently=True)
    # More in the time of a deadline than there are places and answers from memory ahead.
    cluster = simulated(Shape(), 500.0, 14.0, profile=quick, failures=[failure])
    assert cluster.outcomes.between(1.0, 3.9).share("200 full") == 1.0
    assert cluster.outcomes.between(0.0, 14.0).share("503") == 0.0
    assert cluster.outcomes.between(4.3, 7.0).share("200 similar") > 0.99
    assert cluster.outcomes.between(11.0, 14.0).share("200 full") == 1.0


def test_a_model_server_without_time_leaves_the_ranker_out() -> None:
    slow = msgspec.structs.replace(
        PLAIN,
        model=ModelCosts(
            front=FREE, batch=PerCall(call_s=0.3, user_s=0.0), rank_share=0.9, warmth=Warmth()
        ),
    )
    cluster = simulated(Shape(target_ms=0.0), 4.0, 60.0, profile=slow)
    answers = cluster.outcomes.between(0.0, 60.0).answers
    assert answers["200 retrieval"] > 0 and answers["200 full"] > 0


def test_one_seed_gives_one_answer() -> None:
    shape = Shape(api=3, model_servers=2)
    random = RandomFailures(mtbf_s=4.0, mttr_s=1.0)

    def outcome(seed: int) -> tuple[list[float], list[str], int]:
        cluster = Cluster(PLAIN, shape, seed=seed)
        cluster.fail_at_random(random)
        rng = np.random.default_rng(seed)
        due_s = poisson_arrivals_s(rate_per_s=120.0, duration_s=10.0, rng=rng)
        cluster.run(due_s, 16.0)
        assert cluster.failures
        return cluster.outcomes.latency_s, cluster.outcomes.labels, cluster.events.handled

    assert outcome(5) == outcome(5)
    assert outcome(5) != outcome(6)


def test_a_run_that_is_stopped_keeps_what_it_simulated() -> None:
    cluster = Cluster(PLAIN, Shape(model_servers=1), seed=1)
    rng = np.random.default_rng(1)

    def look(now_s: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster.run(poisson_arrivals_s(rate_per_s=60.0, duration_s=500.0, rng=rng), 505.0, look)
    part = cluster.outcomes.between(0.0, cluster.events.now_s - 1.0)
    assert 0 < cluster.events.now_s < 500.0
    assert part.share("200 full") > 0.99 and part.count > 50


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer: asyncio without waiting."""

    _now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now_s = max(self._now_s, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@pytest.mark.parametrize("config", [
    BatchingConfig(max_in_flight=1), BatchingConfig(max_in_flight=2, max_batch=3),
])  # fmt: skip
def test_gathering_makes_the_batches_of_the_real_batcher(config: BatchingConfig) -> None:
    """The same arrivals through ``AdaptiveBatcher`` on an event loop with a virtual clock."""
    rng = np.random.default_rng(3)
    arrivals_s = np.cumsum(rng.exponential(0.4, 400)).tolist()
    works_s = rng.uniform(0.5, 1.5, 1_000).tolist()

    async def real() -> list[list[int]]:
        loop, batches = asyncio.get_running_loop(), list[list[int]]()

        async def compute(calls: Sequence[int]) -> Sequence[int]:
            batches.append(list(calls))
            await asyncio.sleep(works_s[len(batches) - 1])
            return calls

        batcher: AdaptiveBatcher[int, int] = AdaptiveBatcher(compute, config)

        async def caller(number: int) -> None:
            await asyncio.sleep(arrivals_s[number] - loop.time())
            assert await batcher(number) == number

        await asyncio.gather(*(caller(number) for number in range(len(arrivals_s))))
        return batches

    events, batches = Events(), list[list[int]]()

    def compute(calls: list[int]) -> None:
        batches.append(calls)
        events.after(works_s[len(batches) - 1], lambda _: gathering.freed())

    gathering = Gathering(compute, config)
    for number, at_s in enumerate(arrivals_s):
        events.at(at_s, gathering.add, number)
    events.run(1e9)
    loop = _VirtualLoop()
    try:
        assert batches == loop.run_until_complete(real())
    finally:
        loop.close()
    assert max(map(len, batches)) > 1


def test_second_reads_are_at_most_a_twentieth() -> None:
    rng = np.random.default_rng(4)
    hedging = HedgeRule()
    sent, due = 0, list[float]()
    for _ in range(5_000):
        took_s = 0.001 + float(rng.exponential(0.003))
        delay_s = hedging.begins()
        if delay_s is not None and took_s > delay_s and hedging.may_send():
            sent += 1
            heapq.heappush(due, delay_s)
        hedging.took(took_s)
    assert 0.02 < sent / 5_000 <= 0.052
    assert due[0] >= 0.002


class _Target:
    waiting = 0
    is_alive = True


def test_a_kept_connection_stays_where_it_is_until_its_server_is_away() -> None:
    events, targets = Events(), [_Target() for _ in range(4)]
    balancer = Balancer(
        targets, events, Draws(np.random.default_rng(1)), policy="pinned", detect_s=1.0,
        return_s=1.0,
    )  # fmt: skip
    first = balancer.choose()
    assert first is not None and all(balancer.choose() is first for _ in range(20))
    first.is_alive = False
    balancer.died(first)
    assert balancer.choose() is first, "nobody has noticed yet"
    events.run(1.0)
    second = balancer.choose()
    assert second is not first
    first.is_alive = True
    balancer.revived(first)
    events.run(3.0)
    assert balancer.choose() is second, "the one that is back is not gone back to"


def test_failures_are_read_and_wrong_ones_named() -> None:
    assert parse_failure("30:10") == Failure(at_s=30.0, lasts_s=10.0)
    assert parse_failure("1.5:2:redis-1:silent").silently
    with pytest.raises(InputError, match="30:10:model-1"):
        parse_failure("thirty")
    with pytest.raises(InputError, match="api-1, model-1, redis-1"):
        Cluster(PLAIN, Shape(), seed=1).fail([Failure(at_s=1.0, lasts_s=1.0, node="model-9")])
