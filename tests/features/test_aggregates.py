"""What a windowed aggregate is: examples, then both kernels against the plain definition."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.errors import FeatureError
from recsys.features import tile_ranges
from recsys.features.aggregate_state import (
    _place_of_each,
    blobs_of_state,
    merge,
    state_of_blobs,
    state_of_rows,
    trim,
)
from recsys.features.aggregates import finalise
from recsys.features.aggregation import Aggregate
from recsys.features.event_index import EventIndex, values_at
from recsys.features.event_rows import KINDS, Rows, units_of
from recsys.features.few_windows import FewWindows
from recsys.features.view import View
from tests.features.generated_logs import EXAMPLES
from tests.features.oracle import Seen, value_at
from tests.features.worlds import aggregate_view, aggregates, as_int64

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
CLICKS_1H = Aggregate(
    name="clicks_1h", column="interaction", function="count", window_ms=HOUR_MS,
    slide_ms=5 * MINUTE_MS,
)  # fmt: skip
VIEW = aggregate_view("v", ("user_id",), aggregates(("interaction", "interaction__purchase")))
TYPES = ("click", "purchase", "")


def rows_of(events: list[tuple[int, Seen]]) -> Rows:
    return Rows(
        owner=as_int64([owner for owner, _ in events]),
        time_ms=as_int64([e.time_ms for _, e in events]),
        units=units_of([e.value for _, e in events]),
        kind=np.array([KINDS.index(e.kind) for _, e in events], dtype=np.uint8),
        event_type=as_int64([TYPES.index(e.type) for _, e in events]),
        types=TYPES,
    )


def stored(view: View, events: list[tuple[int, Seen]], owners: int) -> list[bytes]:
    tiles = merge(view, state_of_rows(view, rows_of(events)))
    return blobs_of_state(view, tiles, owners)


def clicks_at(view: View, blob: bytes, t: int) -> float:
    return float(finalise(view, state_of_blobs(view, [blob]), as_int64([t]))[0, 0])


def test_a_window_falls_without_any_write() -> None:
    view = aggregate_view("v", ("user_id",), (CLICKS_1H,))
    (blob,) = stored(view, [(0, Seen(T0, "interaction", "click", 1.0))] * 3, 1)
    assert clicks_at(view, blob, T0) == 3
    assert clicks_at(view, blob, T0 + 55 * MINUTE_MS + 299_999) == 3
    assert clicks_at(view, blob, T0 + HOUR_MS) == 0
    assert clicks_at(view, blob, T0 - 300_000) == 0, "before it happened"


def test_the_oldest_tile_leaves_as_a_whole() -> None:
    view = aggregate_view("v", ("user_id",), (CLICKS_1H,))
    late_in_tile = T0 + 5 * MINUTE_MS - 1
    (blob,) = stored(view, [(0, Seen(late_in_tile, "interaction", "click", 1.0))], 1)
    assert clicks_at(view, blob, T0 + HOUR_MS - 1) == 1
    assert clicks_at(view, blob, T0 + HOUR_MS) == 0


def test_sums_do_not_depend_on_order_or_grouping() -> None:
    rng = np.random.default_rng(7)
    events = [
        (0, Seen(T0 + int(rng.integers(0, HOUR_MS)), "interaction", "click", float(v)))
        for v in rng.normal(0, 1e6, 200)
    ]
    whole = stored(VIEW, events, 1)
    pieces = [state_of_rows(VIEW, rows_of(events[i::7])) for i in (3, 1, 6, 0, 2, 5, 4)]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merge(VIEW, merged, piece)
    assert blobs_of_state(VIEW, merged, 1) == whole


SIMPLE = msgspec.structs.replace(
    VIEW,
    aggregates=tuple(a for a in VIEW.aggregates if a.function in ("count", "sum", "mean")),
)


@pytest.mark.parametrize("begin_ms", [0, T0])  # tiles of a second are wide by now, narrow in 1970
def test_few_entities_tile_by_tile_are_many_in_arrays(begin_ms: int) -> None:
    rng = np.random.default_rng(3)
    events = [
        (owner, Seen(begin_ms + t, "interaction", TYPES[t % 3], v))
        for owner, t, v in zip(
            rng.integers(0, 4, 15).tolist(), rng.integers(0, 9 * DAY_MS, 15).tolist(),
            rng.normal(0, 5, 15).tolist(), strict=True,
        )
    ]  # fmt: skip
    events += [(1, events[0][1])] * 300  # a count of two bytes
    counts = msgspec.structs.replace(SIMPLE, aggregates=(CLICKS_1H,))
    for view in (SIMPLE, counts):
        blobs = [*stored(view, events, 5), b""]
        few = FewWindows.of(view)
        assert few is not None
        for t in rng.integers(begin_ms, begin_ms + 9 * DAY_MS, 20).tolist():
            expected = finalise(view, state_of_blobs(view, blobs), np.full(6, t))
            found = few.values(blobs, t)
            assert (found is None) == (begin_ms > 0 and view is SIMPLE)
            if found is not None:
                np.testing.assert_array_equal(found, expected)
    assert FewWindows.of(VIEW) is None, "it has a least value among its functions"


def test_a_damaged_state_is_named() -> None:
    wanted = r'view "v".*run `recsys backfill`'
    with pytest.raises(FeatureError, match=wanted):
        state_of_blobs(VIEW, [b"123"])
    few = FewWindows.of(SIMPLE)
    for damaged in (b"123", b"\0" + b"1" * 4, b"\0" + b"\xff" * 9):
        with pytest.raises(FeatureError, match=wanted):
            assert few is not None and few.values([damaged], T0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"column": "click"}, "interaction, impression or feedback"),
        ({"function": "median"}, "wanted one of count"),
        ({"slide_ms": 7}, "whole number of slides"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        msgspec.structs.replace(CLICKS_1H, **change).check("v")


# Times crowd around tile borders, where mistakes live.
times = st.one_of(
    st.integers(0, 8 * DAY_MS),
    st.builds(
        lambda tile, size, delta: tile * size + delta,
        st.integers(0, 30),
        st.sampled_from([1000, 5 * MINUTE_MS, HOUR_MS, DAY_MS]),
        st.integers(-1, 1),
    ),
).map(lambda offset: T0 + offset)
seen = st.builds(
    Seen,
    times,
    st.sampled_from(["interaction", "impression"]),
    st.sampled_from(["click", "purchase"]),
    st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, -1.0])),
)


@settings(max_examples=EXAMPLES)
@given(
    st.lists(st.tuples(st.integers(0, 2), seen), max_size=40),
    st.lists(times, min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_both_kernels_equal_the_definition(
    events: list[tuple[int, Seen]], moments: list[int], parts: int
) -> None:
    rows = rows_of(events)
    indexes = {s.column: EventIndex(rows, s.column) for s in VIEW.series}
    for t in moments:
        expected = np.array(
            [
                [value_at(a, [e for o, e in events if o == owner], t) for a in VIEW.aggregates]
                for owner in range(3)
            ],
            dtype=np.float32,
        )
        offline = values_at(VIEW, indexes, np.arange(3), np.full(3, t))
        np.testing.assert_array_equal(offline, expected)
        # The stream has seen what had happened by t, in some order, in some batches.
        by_now = [(o, e) for o, e in events if e.time_ms <= t]
        blobs: list[bytes] = [b""] * 3
        for part in range(parts):
            tiles = merge(
                VIEW,
                state_of_blobs(VIEW, blobs),
                state_of_rows(VIEW, rows_of(by_now[part::parts])),
            )
            newest = as_int64(
                [
                    max([e.time_ms for o, e in by_now if o == owner], default=T0)
                    for owner in range(3)
                ]
            )
            blobs = blobs_of_state(VIEW, trim(VIEW, tiles, newest), 3)
        online = finalise(VIEW, state_of_blobs(VIEW, blobs), np.full(3, t))
        np.testing.assert_array_equal(online, expected)


def test_entities_whose_tiles_lie_too_far_apart_are_looked_up_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = [(n % 7, Seen(T0 + n * HOUR_MS, "interaction", "click", float(n))) for n in range(200)]
    state = merge(VIEW, state_of_rows(VIEW, rows_of(events)))
    at = np.full(7, T0 + 200 * HOUR_MS)
    together = finalise(VIEW, state, at)
    monkeypatch.setattr(tile_ranges, "_MAX_KEY", 1)
    np.testing.assert_array_equal(finalise(VIEW, state, at), together)
    assert together.any(axis=1).all()


@given(st.data())
def test_tiles_sort_alike_however_far_apart_they_are(data: st.DataObject) -> None:
    far = st.sampled_from([-(2**55), -3, 0, 1, 2**33, 2**55])
    near = st.integers(20_000, 20_005)
    tiles = data.draw(st.lists(data.draw(st.sampled_from([far, near])), min_size=1, max_size=30))
    owners = [data.draw(st.integers(0, 300)) for _ in tiles]
    series = [data.draw(st.integers(0, 3)) for _ in tiles]
    place = _place_of_each(
        4, np.array(owners), np.array(series, dtype=np.uint8), np.array(tiles)
    ).tolist()
    keys = list(zip(owners, series, tiles, strict=True))
    for a, at in zip(keys, place, strict=True):
        for b, other in zip(keys, place, strict=True):
            assert (a < b) == (at < other)
