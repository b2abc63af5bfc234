"""Every function over every kind of window: state, offline index and the plain definition."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.errors import FeatureError
from recsys.features import distinct
from recsys.features.aggregate_state import (
    blobs_of_state,
    merge,
    state_of_blobs,
    state_of_rows,
    trim,
)
from recsys.features.aggregates import finalise, finalise_lists
from recsys.features.aggregation import Aggregate
from recsys.features.event_index import EventIndex, lists_at, values_at
from recsys.features.event_rows import KINDS, Rows, units_of
from recsys.features.functions import parse
from recsys.features.names import identity_hash
from recsys.features.view import View
from tests.features.oracle import Seen, list_at, values_of
from tests.features.worlds import aggregate_view, as_int64

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
TYPES = ("click", "purchase", "")
EXAMPLES = int(os.environ.get("RECSYS_TEST_EXAMPLES", "40"))


def declared(name: str, column: str, function: str, window_ms: int, slide_ms: int) -> Aggregate:
    return Aggregate(
        name=name, column=column, function=function, window_ms=window_ms, slide_ms=slide_ms
    )


def everything() -> View:
    spans = ((HOUR_MS, 5 * MINUTE_MS), (DAY_MS, DAY_MS), (6000, 1000))  # sliding, tumbling, short
    functions = (
        ("interaction", "count"), ("interaction", "first"), ("interaction", "decayed_count(20m)"),
        ("interaction", "decayed_sum(2s)"), ("interaction__purchase", "decayed_sum(6h)"),
        ("interaction.item_id", "count_distinct"),
        ("interaction__click.category", "count_distinct"),
        ("impression", "count_distinct"), ("interaction", "session_count(10m)"),
        ("interaction", "session_sum(2s)"), ("impression", "session_count(30m)"),
        ("interaction.item_id", "last_n(3)"), ("interaction", "last_n(5)"),
        ("impression.category", "last_n(2)"),
    )  # fmt: skip
    found = [
        declared(f"{column} {function} {window}", column, function, window, slide)
        for window, slide in spans
        for column, function in functions
    ]
    over = f"ratio(interaction count {HOUR_MS}, interaction count {DAY_MS})"
    found.append(declared("share", "interaction", over, HOUR_MS, HOUR_MS))
    view = aggregate_view("v", ("user_id",), tuple(found))
    view.check()
    return view


VIEW = everything()


def rows_of(events: list[tuple[int, Seen]]) -> Rows:
    return Rows(
        owner=as_int64([owner for owner, _ in events]),
        time_ms=as_int64([e.time_ms for _, e in events]),
        units=units_of([e.value for _, e in events]),
        kind=np.array([KINDS.index(e.kind) for _, e in events], dtype=np.uint8),
        event_type=as_int64([TYPES.index(e.type) for _, e in events]),
        types=TYPES,
        item=as_int64([identity_hash(e.item_id) for _, e in events]),
        category=as_int64([identity_hash(e.category) for _, e in events]),
    )


def compare(events: list[tuple[int, Seen]], moments: list[int], seed: int) -> None:
    """Compare state, index and definition for three entities at every moment, to the bit."""
    rows = rows_of(events)
    indexes = {column: EventIndex(rows, column) for column in VIEW.columns}
    shuffled = random.Random(seed)
    for t in moments:
        mine = [[e for o, e in events if o == owner] for owner in range(3)]
        expected = np.array([values_of(VIEW, one, t) for one in mine], dtype=np.float32)
        at = np.full(3, t)
        np.testing.assert_array_equal(values_at(VIEW, indexes, np.arange(3), at), expected)
        by_now = [(o, e) for o, e in events if e.time_ms <= t]
        shuffled.shuffle(by_now)
        newest = as_int64([max([e.time_ms for e in one if e.time_ms <= t] or [T0]) for one in mine])
        parts = [by_now[k::3] for k in range(3)]
        blobs: list[bytes] = [b""] * 3
        for part in parts:  # a restart after each: state goes to bytes and comes back
            state = merge(VIEW, state_of_blobs(VIEW, blobs), state_of_rows(VIEW, rows_of(part)))
            blobs = blobs_of_state(VIEW, trim(VIEW, state, newest), 3)
        a, b, c = (state_of_rows(VIEW, rows_of(part)) for part in parts)
        regrouped = merge(VIEW, c, merge(VIEW, b, a))
        assert blobs_of_state(VIEW, trim(VIEW, regrouped, newest), 3) == blobs
        state = state_of_blobs(VIEW, blobs)
        np.testing.assert_array_equal(finalise(VIEW, state, at), expected)
        online = finalise_lists(VIEW, state, at)
        offline = lists_at(VIEW, indexes, np.arange(3), at)
        for aggregate in VIEW.list_aggregates:
            for owner, one in enumerate(mine):
                wanted = list_at(aggregate, one, t)
                assert online[aggregate.name].row(owner).tolist() == wanted
                assert offline[aggregate.name].row(owner).tolist() == wanted


times = st.one_of(
    st.integers(0, 2 * DAY_MS),
    st.builds(
        lambda tile, size, delta: tile * size + delta,
        st.integers(0, 30),
        st.sampled_from([1000, 2000, 5 * MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, DAY_MS]),
        st.integers(-1, 1),
    ),
).map(lambda offset: T0 + offset)
seen = st.builds(
    Seen,
    times,
    st.sampled_from(["interaction", "interaction", "impression"]),
    st.sampled_from(["click", "purchase"]),
    st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, -1.0])),
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(["x", "y"]),
)


@settings(max_examples=EXAMPLES)
@given(
    st.lists(st.tuples(st.integers(0, 2), seen), max_size=40),
    st.lists(times, min_size=1, max_size=3),
    st.integers(0, 2**32),
)
def test_state_index_and_definition_are_equal(
    events: list[tuple[int, Seen]], moments: list[int], seed: int
) -> None:
    compare(events, moments, seed)


def test_a_heavy_entity_is_equal_and_bounded() -> None:
    chance = random.Random(3)
    events = [
        (
            min(2, int(chance.expovariate(2))),
            Seen(
                T0 + chance.randrange(3 * HOUR_MS), "interaction", "click", chance.uniform(-9, 9),
                f"i{chance.randrange(2000)}", f"c{chance.randrange(40)}",
            ),
        )
        for _ in range(6000)
    ]  # fmt: skip
    compare(events, [T0 + 2 * HOUR_MS, T0 + 3 * HOUR_MS, T0 + DAY_MS - 1], 5)
    state = merge(VIEW, state_of_rows(VIEW, rows_of(events)))
    newest = np.full(3, T0 + 3 * HOUR_MS)
    once = sum(map(len, blobs_of_state(VIEW, trim(VIEW, state, newest), 3)))
    twice = merge(VIEW, state, state_of_rows(VIEW, rows_of(events)))
    again = sum(map(len, blobs_of_state(VIEW, trim(VIEW, twice, newest), 3)))
    assert again < 1.02 * once, "twice the events in the same time take no more space"


def test_a_session_closes_after_its_gap_and_late_events_bridge_two() -> None:
    session = declared("s", "interaction", "session_count(30m)", DAY_MS, HOUR_MS)
    view = aggregate_view("v", ("user_id",), (session,))

    def count(minutes: list[int], at_ms: int) -> float:
        events = [(0, Seen(T0 + m * MINUTE_MS, "interaction", "click", 1.0)) for m in minutes]
        pieces = [state_of_rows(view, rows_of([event])) for event in events]
        return float(finalise(view, merge(view, *pieces), as_int64([at_ms]))[0, 0])

    assert count([0, 40], T0 + 40 * MINUTE_MS) == 1
    assert count([0, 40, 20], T0 + 40 * MINUTE_MS) == 3
    assert count([50, 70], T0 + 70 * MINUTE_MS) == 2, "across the border of a tile"
    assert count([0], T0 + 30 * MINUTE_MS - 1) == 1
    assert count([0], T0 + 30 * MINUTE_MS) == 0
    assert count([0, 30], T0 + 30 * MINUTE_MS) == 1, "a gap of exactly 30 minutes parts"


def test_a_tumbling_window_is_the_current_bucket() -> None:
    today = declared("today", "interaction", "count", DAY_MS, DAY_MS)
    view = aggregate_view("v", ("user_id",), (today,))
    state = state_of_rows(view, rows_of([(0, Seen(T0, "interaction", "click", 1.0))]))
    ends = as_int64([T0 + DAY_MS - 1])
    assert finalise(view, state, ends)[0, 0] == 1
    assert finalise(view, state, ends + 1)[0, 0] == 0


@pytest.mark.parametrize("size", [33, 500, 2000, 100_000])
def test_the_error_of_a_large_count_is_as_stated(size: int) -> None:
    """1.04 / sqrt(512) = 4.6 %: measured over 200 sets, no bias and a standard error near it."""
    rng = np.random.default_rng(size)
    trials = 200 if size < 50_000 else 40
    registers = distinct.no_registers(trials)
    for trial in range(trials):
        identities = rng.integers(-(2**63), 2**63 - 1, size)
        distinct.add_identities(registers, np.full(size, trial), identities)
    errors = distinct.estimate(registers) / size - 1
    assert abs(errors.mean()) < 4 * 0.046 / np.sqrt(trials)
    assert np.sqrt(np.mean(errors**2)) < 0.046 * 1.3


@settings(max_examples=EXAMPLES)
@given(st.lists(st.lists(st.tuples(times, st.sampled_from([0.5, -3e4, 7e9])), max_size=4)))
def test_tiles_of_every_width_come_back(owners: list[list[tuple[int, float]]]) -> None:
    """Small and great sums, hours and seconds, few and many events, side by side in a batch."""
    spans = ((HOUR_MS, 5 * MINUTE_MS), (6000, 1000))
    columns = tuple(
        declared(f"{function} {window}", "interaction", function, window, slide)
        for window, slide in spans
        for function in ("sum", "min", "first", "last")
    )
    for view in (aggregate_view("v", (), columns), aggregate_view("v", (), columns[:4])):
        events = [
            (owner, Seen(t, "interaction", "click", value))
            for owner, some in enumerate(owners)
            for t, value in some
            for _ in range(300 if value == 0.5 and owner % 2 else 1)
        ]
        state = merge(view, state_of_rows(view, rows_of(events)))
        found = state_of_blobs(view, blobs_of_state(view, state, len(owners)))
        for name in ("owner", "series", "tile"):
            np.testing.assert_array_equal(getattr(found, name), getattr(state, name))
        for component, values in state.parts.items():
            np.testing.assert_array_equal(found.parts[component], values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("median", "wanted one of count"),
        ("count(3)", "without an argument"),
        ("last_n", "a length from 1 to"),
        ("last_n(0)", "a length from 1 to"),
        ("decayed_sum(6)", "wanted a duration"),
        ("session_count(0m)", "wanted a duration"),
        ("ratio(a)", "wanted two aggregates"),
    ],
)
def test_a_function_that_does_not_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        parse(text)


def test_declarations_that_do_not_fit_are_refused() -> None:
    def check(column: str, function: str) -> None:
        one = declared("one", column, function, HOUR_MS, HOUR_MS)
        aggregate_view("v", ("user_id",), (one,)).check()

    with pytest.raises(FeatureError, match="wanted a column without a field"):
        check("interaction.item_id", "sum")
    with pytest.raises(FeatureError, match="wanted a field of item_id, category"):
        check("interaction.price", "count_distinct")
    with pytest.raises(FeatureError, match='found "nothing"'):
        check("interaction", "ratio(nothing, one)")


def test_a_damaged_state_is_named() -> None:
    event = (0, Seen(T0, "interaction", "click", 1.0, "a", "x"))
    (blob, *_) = blobs_of_state(VIEW, state_of_rows(VIEW, rows_of([event])), 1)
    for damaged in (blob[:-1], blob + b"\0", b"123"):
        with pytest.raises(FeatureError, match=r'view "v".*run `recsys backfill`'):
            state_of_blobs(VIEW, [damaged])
