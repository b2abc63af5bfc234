"""The simulation's parts against queues whose answers are known, with a seed and no clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.capacity.simulation.cores import Background, Machine, Thread
from benchmarks.capacity.simulation.draws import Dispersion, Draws
from benchmarks.capacity.simulation.events import Events
from benchmarks.capacity.simulation.profile import ModelCosts, PerCall, Warmth
from benchmarks.capacity.simulation.servers import ModelServer
from benchmarks.loadtest import md1

COUNT = 60_000
FREE = PerCall(call_s=0.0, user_s=0.0)


class Seen:
    """Times in the system, by arrival, and the integral of how many were in it."""

    def __init__(self, events: Events, arrivals_s: np.ndarray) -> None:
        self.events, self.arrivals_s = events, arrivals_s
        self.times_s = np.full(len(arrivals_s), np.nan)
        self.inside = 0
        self._area, self._since_s = 0.0, 0.0

    def changed(self, by: int) -> None:
        self._area += self.inside * (self.events.now_s - self._since_s)
        self._since_s = self.events.now_s
        self.inside += by

    def left(self, number: int) -> None:
        self.changed(-1)
        self.times_s[number] = self.events.now_s - self.arrivals_s[number]

    @property
    def mean_inside(self) -> float:
        return self._area / self._since_s


def poisson(rate: float, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.cumsum(rng.exponential(1.0 / rate, count))


def run(events: Events, arrivals_s: np.ndarray, begin: Callable[[int, Seen], None]) -> Seen:
    seen = Seen(events, arrivals_s)

    def arrive(number: int) -> None:
        seen.changed(1)
        begin(number, seen)
        if number + 1 < len(arrivals_s):
            events.at(float(arrivals_s[number + 1]), arrive, number + 1)

    events.at(float(arrivals_s[0]), arrive, 0)
    events.run(float(arrivals_s[-1]) + 1e6)
    assert not np.isnan(seen.times_s).any()
    return seen


def one_thread(works_s: np.ndarray, arrivals_s: np.ndarray) -> tuple[Seen, Machine, Thread]:
    events = Events()
    machine = Machine(events, 1)
    thread = Thread(machine)
    works = works_s.tolist()
    seen = run(events, arrivals_s, lambda n, seen: thread.do(works[n], seen.left, n))
    return seen, machine, thread


def each_its_own_thread(
    works_s: np.ndarray, arrivals_s: np.ndarray, cores: int, together: float = 1.0
) -> tuple[Seen, Machine]:
    events = Events()
    machine = Machine(events, cores, together=together)
    works = works_s.tolist()
    seen = run(events, arrivals_s, lambda n, seen: Thread(machine).do(works[n], seen.left, n))
    return seen, machine


def model_server(
    events: Events, *, instances: int, batch: PerCall, max_batch_size: int,
    dispersion: Callable[[], float] = lambda: 1.0,
) -> ModelServer:  # fmt: skip
    costs = ModelCosts(front=FREE, batch=batch, rank_share=0.0, warmth=Warmth())
    return ModelServer(
        "model-1", Machine(events, instances + 1), costs, network_s=0.0,
        dispersion=dispersion, instances=instances, max_batch_size=max_batch_size,
    )  # fmt: skip


def ask(server: ModelServer) -> Callable[[int, Seen], None]:
    def begin(number: int, seen: Seen) -> None:
        batch: Any = SimpleNamespace(users=1, end_s=math.inf, is_ranked=True)
        server.ask(batch, lambda _batch, _answered: seen.left(number))

    return begin


def erlang_c(servers: int, offered: float) -> float:
    """The probability of waiting in M/M/c (Erlang 1917), by way of Erlang B's recursion."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = offered * blocked / (n + offered * blocked)
    rho = offered / servers
    return blocked / (1.0 - rho * (1.0 - blocked))


def test_mm1_mean_and_distribution() -> None:
    rng = np.random.default_rng(1)
    seen, _, _ = one_thread(rng.exponential(1.0, COUNT), poisson(0.7, COUNT, rng))
    assert seen.times_s.mean() == pytest.approx(1.0 / (1.0 - 0.7), rel=0.06)
    # The time in the system is exponential: its 95th percentile is 3.0 times its mean.
    assert np.percentile(seen.times_s, 95) == pytest.approx(math.log(20) / 0.3, rel=0.08)


def test_md1_is_lindleys_recursion_to_the_last_digits() -> None:
    rng = np.random.default_rng(2)
    arrivals_s = poisson(0.8, COUNT, rng)
    seen, _, _ = one_thread(np.ones(COUNT), arrivals_s)
    np.testing.assert_allclose(seen.times_s, md1.sojourns(arrivals_s, 1.0), rtol=0, atol=1e-6)
    assert np.percentile(seen.times_s, 95) == pytest.approx(
        md1.sojourn_percentile(0.8, 95.0), rel=0.06
    )


@pytest.mark.parametrize(("servers", "offered"), [(2, 1.5), (4, 3.2)])
def test_mmc_waiting_is_erlangs(servers: int, offered: float) -> None:
    rng = np.random.default_rng(3)
    events = Events()
    draws = Draws(rng)
    server = model_server(
        events, instances=servers, batch=PerCall(call_s=0.0, user_s=1.0), max_batch_size=1,
        dispersion=lambda: draws.exponential(1.0),
    )  # fmt: skip
    seen = run(events, poisson(offered, COUNT, np.random.default_rng(4)), ask(server))
    waiting_s = erlang_c(servers, offered) / (servers - offered)
    assert seen.times_s.mean() - 1.0 == pytest.approx(waiting_s, rel=0.1)


@pytest.mark.parametrize("squared_variation", [0.0, 1.0, 5.0])
def test_processor_sharing_mean_depends_on_the_mean_work_alone(squared_variation: float) -> None:
    rng = np.random.default_rng(5)
    works_s = _works(squared_variation, rng)
    seen, machine = each_its_own_thread(works_s, poisson(0.6, COUNT, rng), cores=1)
    assert seen.times_s.mean() == pytest.approx(1.0 / (1.0 - 0.6), rel=0.06)
    # What takes x alone takes x / (1 - rho) on average, whatever x is.
    short = works_s <= np.median(works_s)
    slowdown = seen.times_s[short].mean() / works_s[short].mean()
    assert slowdown == pytest.approx(1.0 / (1.0 - 0.6), rel=0.08)
    assert machine.busy_s == pytest.approx(works_s.sum(), rel=1e-6)


def _works(squared_variation: float, rng: np.random.Generator) -> np.ndarray:
    if squared_variation == 0.0:
        return np.ones(COUNT)
    if squared_variation == 1.0:
        return rng.exponential(1.0, COUNT)
    # Two exponentials with balanced means: mean 1 and this squared variation.
    p = 0.5 * (1.0 + math.sqrt((squared_variation - 1.0) / (squared_variation + 1.0)))
    return np.where(
        rng.random(COUNT) < p,
        rng.exponential(1.0 / (2 * p), COUNT), rng.exponential(1.0 / (2 * (1 - p)), COUNT),
    )  # fmt: skip


def test_processor_sharing_of_two_cores_has_the_mean_of_mm2() -> None:
    rng = np.random.default_rng(6)
    seen, _ = each_its_own_thread(rng.exponential(1.0, COUNT), poisson(1.4, COUNT, rng), cores=2)
    mean_s = 1.0 + erlang_c(2, 1.4) / (2 - 1.4)
    assert seen.times_s.mean() == pytest.approx(mean_s, rel=0.06)


def test_cores_that_slow_each_other_take_that_much_longer() -> None:
    works_s = np.array([2.0, 2.0])
    seen, machine = each_its_own_thread(works_s, np.array([0.0, 1.0]), cores=2, together=1.5)
    # Alone until 1.0; then both at 1 / 1.5 until the first has had its last second, at 2.5.
    np.testing.assert_allclose(seen.times_s, [2.5, 1.0 * 1.5 + 1.0], atol=1e-9)
    assert machine.busy_s == pytest.approx(2.5 + 2.5)


def test_a_machine_that_slows_down_takes_the_rest_of_the_work_slower() -> None:
    events = Events()
    machine = Machine(events, 1)
    ends: list[float] = []
    Thread(machine).do(3.0, lambda _: ends.append(events.now_s))
    events.at(1.0, lambda _: machine.set_speed(0.5))
    events.at(3.0, lambda _: machine.set_speed(1.0))
    events.run(10.0)
    assert ends == [pytest.approx(4.0)]


def test_the_law_of_utilisation_and_littles_law() -> None:
    rng = np.random.default_rng(7)
    arrivals_s, works_s = poisson(0.75, COUNT, rng), rng.gamma(2.0, 0.5, COUNT)
    seen, machine, thread = one_thread(works_s, arrivals_s)
    rate = COUNT / seen._since_s
    assert machine.busy_s / seen._since_s == pytest.approx(rate * works_s.mean(), rel=1e-6)
    assert thread.core_s == pytest.approx(works_s.sum(), rel=1e-6)
    assert seen.mean_inside == pytest.approx(rate * seen.times_s.mean(), rel=1e-6)


def test_a_saturated_batch_server_gathers_what_came_meanwhile() -> None:
    """Where all that waits is computed at once in a + b n, n settles at lambda a / (1 - lambda b).

    Exact as n grows: what comes during one computation is the next one (its relative spread falls
    with the root of n).
    """
    events = Events()
    rate, a, b = 60.0, 1.0, 0.01
    server = model_server(
        events, instances=1, batch=PerCall(call_s=a, user_s=b), max_batch_size=10**9
    )
    run(events, poisson(rate, COUNT, np.random.default_rng(8)), ask(server))
    sizes = [size for size, times in server.executions.items() for _ in range(times)]
    sized = np.sort(sizes)[8:]  # the first ones find hardly anybody, the last one whoever is left
    assert np.mean(sized) == pytest.approx(rate * a / (1.0 - rate * b), rel=0.05)


def test_a_bounded_batch_server_answers_no_more_than_full_batches_allow() -> None:
    events = Events()
    server = model_server(
        events, instances=1, batch=PerCall(call_s=1.0, user_s=0.1), max_batch_size=10
    )
    arrivals_s = poisson(8.0, 20_000, np.random.default_rng(9))  # full batches: 5 a second
    seen = run(events, arrivals_s, ask(server))
    busy_s = float((arrivals_s + seen.times_s).max()) - float(arrivals_s[0])
    assert len(arrivals_s) / busy_s == pytest.approx(10 / 2.0, rel=0.01)
    assert max(server.executions) == 10


def test_work_after_a_pause_takes_longer() -> None:
    events = Events()
    thread = Thread(Machine(events, 1), cold=1.0, cooling_s=2.0)
    ends: list[float] = []
    for begin_s, step in ((0.0, 0), (2.0, 0), (5.0, 1), (7.0, 0)):
        # Never done before; at once after it; another step for the first time; after 4 s.
        events.at(
            begin_s,
            lambda step: thread.do(1.0, lambda _: ends.append(events.now_s), step=step), step,
        )  # fmt: skip
    events.run(100.0)
    np.testing.assert_allclose(ends, [2.0, 3.0, 7.0, 7.0 + 1.0 + (1.0 - math.exp(-4.0))])


def test_a_killed_thread_ends_nothing_and_leaves_its_core_to_the_others() -> None:
    events = Events()
    machine = Machine(events, 1)
    killed, other = Thread(machine), Thread(machine)
    ends: list[tuple[str, float]] = []
    killed.do(4.0, lambda _: ends.append(("killed", events.now_s)))
    killed.do(1.0, lambda _: ends.append(("queued", events.now_s)))
    other.do(4.0, lambda _: ends.append(("other", events.now_s)))
    events.at(2.0, lambda _: killed.kill())
    events.at(3.0, lambda _: killed.do(1.0, lambda _: ends.append(("dead", events.now_s))))
    events.at(6.0, lambda _: killed.revive())
    events.at(7.0, lambda _: killed.do(1.0, lambda _: ends.append(("back", events.now_s))))
    events.run(100.0)
    assert [name for name, _ in ends] == ["other", "back"]
    np.testing.assert_allclose([at_s for _, at_s in ends], [5.0, 8.0])


def test_background_uses_the_share_it_is_said_to() -> None:
    events = Events()
    thread = Thread(Machine(events, 2))
    draws = Draws(np.random.default_rng(10))
    Background(
        thread, events, every_s=0.05, work_s=lambda: draws.exponential(0.01),
        pause_s=lambda: draws.exponential(0.05),
    )  # fmt: skip
    events.run(1_000.0)
    assert thread.core_s / 1_000.0 == pytest.approx(0.2, rel=0.03)


def test_dispersion_keeps_the_mean_and_the_shape() -> None:
    measured = [(0.05, 0.8), (0.5, 1.0), (0.95, 1.5), (0.99, 3.0)]
    draw = Dispersion(Draws(np.random.default_rng(11)), measured)
    found = np.array([draw() for _ in range(40_000)])
    assert found.mean() == pytest.approx(1.0, rel=0.01)
    ratio = np.percentile(found, 95) / np.percentile(found, 50)
    assert ratio == pytest.approx(1.5, rel=0.03)


def test_events_of_the_same_moment_happen_in_the_order_they_were_made() -> None:
    events = Events()
    order: list[int] = []
    for number in range(50):
        events.at(1.0, order.append, number)
    events.at(0.5, lambda _: events.at(0.1, order.append, -1))  # a moment that has passed: now
    events.run(2.0)
    assert order == [-1, *range(50)]
    assert events.now_s == 2.0
