"""When a server is no longer asked, and when it is again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        one.answered(waited_s=0.01)
    one.failed(GONE, waited_s=0.001)
    one.failed(GONE, waited_s=0.001)
    one.answered(waited_s=0.01)
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
    one.answered(waited_s=0.01)
    assert is_let_go(one)
    one.answered(waited_s=0.01)
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
        one.answered(waited_s=0.01)
        one.failed(GONE, waited_s=0.01)
        clock.now_s += 0.001
    assert one.state == "open"
    rare, clock = breaker()
    for _ in range(100):
        rare.answered(waited_s=0.01)
        rare.answered(waited_s=0.01)
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


def known(usual_s: float = 0.01) -> tuple[CircuitBreaker, Clock]:
    """A breaker that knows what calls take."""
    one, clock = breaker()
    for _ in range(BreakerConfig().min_calls_known):
        clock.now_s += usual_s
        one.answered(waited_s=usual_s)
    return one, clock


def test_silence_makes_what_waits_the_probe_and_one_answer_closes_it() -> None:
    one, clock = known()
    clock.now_s += 0.25
    assert not one.is_silent(waited_s=0.19), "a call that has not waited for long says nothing"
    assert one.is_silent(waited_s=0.21)
    assert one.state == "half-open"
    assert not is_let_go(one)
    assert one.is_silent(waited_s=0.3), "whoever else waits need not either"
    one.answered(waited_s=0.4)
    assert one.state == "closed"
    assert all(is_let_go(one) for _ in range(3))


def test_silence_that_lasts_opens_it_and_then_it_takes_two_probes() -> None:
    one, clock = known()
    clock.now_s += 0.2
    assert one.is_silent(waited_s=0.2)
    clock.now_s += 0.26
    one.failed(LATE, waited_s=0.46)
    assert one.state == "open"
    one.failed(LATE, waited_s=0.46)
    clock.now_s += BreakerConfig().open_s
    assert is_let_go(one), "the first pause, not a longer one"
    one.answered(waited_s=0.01)
    assert one.state == "half-open"
    assert is_let_go(one)
    one.answered(waited_s=0.01)
    assert one.state == "closed"


def test_one_call_that_hangs_is_no_silence_while_others_are_answered() -> None:
    one, clock = known()
    began_s = clock.now_s
    for _ in range(20):
        clock.now_s += 0.1
        one.answered(waited_s=0.01)
        assert not one.is_silent(waited_s=clock.now_s - began_s)
    assert one.state == "closed"


def test_silence_is_several_times_the_usual_and_unknown_before_there_is_a_usual() -> None:
    new, clock = breaker()
    clock.now_s += 60.0
    assert new.silence_s is None
    assert not new.is_silent(waited_s=60.0)
    assert known(0.01)[0].silence_s == BreakerConfig().min_silence_s
    slow, clock = known(0.1)
    assert slow.silence_s == pytest.approx(0.4)
    clock.now_s += 0.3
    assert not slow.is_silent(waited_s=0.3)


@given(
    usual_s=st.floats(0.001, 0.2),
    steps=st.lists(
        st.tuples(st.floats(0.001, 0.4), st.sampled_from(["begins", "answered", "looks"])),
        max_size=7,  # in three seconds another probe may go
    ),
)
def test_nobody_is_turned_away_before_silence_has_lasted_and_nobody_waits_after(
    usual_s: float, steps: list[tuple[float, str]]
) -> None:
    one, clock = known(usual_s)
    silence_s = one.silence_s
    assert silence_s is not None
    heard_s = began_s = clock.now_s
    for seconds, what in steps:
        clock.now_s += seconds
        if what == "answered":
            one.answered(waited_s=clock.now_s - began_s)
            heard_s = clock.now_s
        elif what == "begins" and is_let_go(one):
            began_s = clock.now_s
        waited_s = clock.now_s - began_s
        lasted = min(waited_s, clock.now_s - heard_s) >= silence_s
        assert one.is_silent(waited_s=waited_s) == lasted
        assert is_let_go(one) == (not lasted)


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
