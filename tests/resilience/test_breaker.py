"""When a server is no longer asked, and when it is again."""

from __future__ import annotations

import pytest

from recsys.errors import CircuitOpenError, DeadlineExceededError, StageError
from recsys.resilience.breaker import BreakerConfig, CircuitBreaker

GONE = StageError("gone", stage="features")
LATE = DeadlineExceededError("late", stage="features")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def breaker() -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    return CircuitBreaker("redis", BreakerConfig(), clock_s=clock), clock


def is_let_go(one: CircuitBreaker) -> bool:
    try:
        one.require("features")
    except CircuitOpenError as error:
        assert error.stage == "features"
        return False
    return True


def test_failures_in_a_row_open_it_and_answered_probes_close_it() -> None:
    one, clock = breaker()
    for _ in range(100):
        one.answered()
    one.failed(GONE, waited_s=0.001)
    one.failed(GONE, waited_s=0.001)
    one.answered()
    one.failed(GONE, waited_s=0.001)
    one.failed(GONE, waited_s=0.001)
    assert is_let_go(one)
    one.failed(GONE, waited_s=0.001)
    assert one.state == "open"
    assert not is_let_go(one)
    clock.now_s += 0.25
    assert is_let_go(one)
    assert one.state == "half-open"
    assert not is_let_go(one), "one probe at a time"
    one.answered()
    assert is_let_go(one)
    one.answered()
    assert one.state == "closed"
    assert all(is_let_go(one) for _ in range(10))


def test_pauses_grow_while_probes_fail_and_stay_bounded() -> None:
    one, clock = breaker()
    for _ in range(3):
        one.failed(GONE, waited_s=0.1)
    pauses = []
    for _ in range(6):
        began_s = clock.now_s
        while not is_let_go(one):
            clock.now_s += 0.0625
        pauses.append(round(clock.now_s - began_s, 2))
        one.failed(GONE, waited_s=0.1)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_half_of_many_calls_failing_opens_it_though_never_in_a_row() -> None:
    one, clock = breaker()
    for _ in range(11):
        one.answered()
        one.failed(GONE, waited_s=0.01)
        clock.now_s += 0.001
    assert one.state == "open"
    rare, clock = breaker()
    for _ in range(100):
        rare.answered()
        rare.answered()
        rare.failed(GONE, waited_s=0.01)
        clock.now_s += 0.001
    assert rare.state == "closed", "a third"


def test_a_caller_in_a_hurry_says_nothing_about_the_server() -> None:
    one, clock = breaker()
    for _ in range(10):
        one.failed(LATE, waited_s=0.01)
    assert one.state == "closed"
    for _ in range(3):
        one.failed(LATE, waited_s=0.2)
    assert one.state == "open"
    clock.now_s += 0.25
    assert is_let_go(one)
    one.failed(LATE, waited_s=0.01)
    assert one.state == "half-open"
    assert is_let_go(one), "the next one may be the probe"


def test_a_probe_nobody_hears_of_makes_room() -> None:
    one, clock = breaker()
    for _ in range(3):
        one.failed(GONE, waited_s=0.1)
    clock.now_s += 0.25
    assert is_let_go(one)
    clock.now_s += 2.9
    assert not is_let_go(one)
    clock.now_s += 0.2
    assert is_let_go(one)


def test_its_state_is_a_metric() -> None:
    from prometheus_client import REGISTRY

    one, _ = breaker()
    value = lambda: REGISTRY.get_sample_value("recsys_breaker_state", {"server": "redis"})  # noqa: E731
    assert value() == 0
    for _ in range(3):
        one.failed(GONE, waited_s=0.1)
    assert value() == 2
    with pytest.raises(CircuitOpenError, match="redis has not answered of late"):
        one.require("features")
