"""Frames of states: what is put together comes apart again, and what is cut off is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import FeatureError
from recsys.features import framing
from recsys.features.framing import NEVER_MS, Framed, frame, payloads_of, unframe
from tests.features.worlds import as_int64

Parts = tuple[bytes, int, bytes]
TIMES = st.integers(NEVER_MS, 1 << 62)


def parts_of(positions: int) -> st.SearchStrategy[Parts]:
    size = 8 * positions
    return st.tuples(st.binary(min_size=size, max_size=size), TIMES, st.binary(max_size=5))


MANY = st.one_of(
    st.integers(0, 3).flatmap(lambda n: st.lists(parts_of(n), min_size=1, max_size=6)),
    st.lists(st.one_of(st.none(), *map(parts_of, range(3))), min_size=1, max_size=6),
)


def framed(parts: list[Parts]) -> list[bytes]:
    positions, times, payloads = zip(*parts, strict=True)
    return frame(Framed(list(positions), as_int64(list(times)), list(payloads)))


@given(MANY)
def test_what_is_framed_comes_apart(many: list[Parts | None]) -> None:
    blobs = [None if parts is None else framed([parts])[0] for parts in many]
    found = unframe(blobs)
    wanted = [parts or (b"", NEVER_MS, b"") for parts in many]
    assert list(zip(found.positions, found.newest_ms, found.payloads, strict=True)) == wanted
    assert payloads_of(blobs) == found.payloads
    assert {type(one) for one in found.positions} == {bytes}


def test_states_of_as_many_positions_are_taken_apart_together() -> None:
    alike = framed([(bytes(8), 5, b"x"), (b"\x01" * 8, 6, b"")])
    assert framing._unframed_alike(alike) is not None
    for other in (None, framed([(bytes(16), 5, b"x")])[0], framed([(b"", 5, b"x" * 20)])[0]):
        assert framing._unframed_alike([*alike, other]) is None


@given(st.lists(parts_of(1), min_size=1, max_size=3), st.data())
def test_what_is_cut_off_is_named(many: list[Parts], data: st.DataObject) -> None:
    blobs = framed(many)
    at = data.draw(st.integers(0, len(blobs) - 1))
    blobs[at] = blobs[at][: data.draw(st.integers(0, 17))]
    with pytest.raises(FeatureError, match="wanted a frame of at least"):
        unframe(blobs)
