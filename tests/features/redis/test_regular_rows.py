"""Rows taken off the wire as arrays: as one by one, however they come, whatever they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.redis.regular_rows import RegularReplies, RowShape, part_of
from recsys.features.redis.replies import Replies

VECTOR = ((b"\x82\x01\x0a\x0a\x08", 8),)
SCALARS = ((b"5", 4),) * 3
TRAPS = (b"*2\r\n$13\r\n", b"*4\r\n$5\r\n", b"\r\n*2\r\n$1", b"$-1\r\n$5")
STAMPS = st.binary(max_size=12) | st.binary(min_size=11, max_size=12)
Row = tuple[bytes | None, ...]


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[tuple[int, RowShape]], list[list[Row]]]:
    parts, rows = [], []
    for values in draw(st.lists(st.sampled_from([VECTOR, SCALARS]), min_size=1, max_size=3)):
        num_times = draw(st.integers(0, 2))
        count = draw(st.sampled_from([0, 1, 2, 9, 40]))
        payloads = st.binary(min_size=16, max_size=16) | st.sampled_from(
            [(trap * 3)[:16] for trap in TRAPS]
        )
        chosen = draw(st.lists(payloads, min_size=1, max_size=4))
        stamps = draw(st.lists(STAMPS, min_size=1, max_size=4))
        parts.append((count, RowShape(values, num_times)))
        rows.append(
            [
                (
                    *(
                        head + chosen[(n + i) % len(chosen)][:size]
                        for i, (head, size) in enumerate(values)
                    ),
                    *(stamps[(n + t) % len(stamps)] for t in range(num_times)),
                )
                for n in range(count)
            ]
        )
    return parts, rows


def packed(row: Row) -> bytes:
    bulks = [b"$-1\r\n" if v is None else b"$%d\r\n%b\r\n" % (len(v), v) for v in row]
    return b"*%d\r\n" % len(row) + b"".join(bulks)


def taken(parts: Any, stream: bytes, cuts: list[int]) -> list[Any] | None:
    """Feed a stream in pieces; what came with its last byte."""
    replies = Replies()
    replies.expect(sum(count for count, _ in parts), parts)
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        place = begin
        while place < end:
            space = replies.space()
            size = min(len(space), end - place)
            space[:size] = stream[place : place + size]
            found = replies.received(size)
            place += size
            if place < len(stream):
                assert found is None
    assert found is None or not replies.has_begun
    return found


def cuts_of(stream: bytes) -> st.SearchStrategy[list[int]]:
    inner = st.integers(1, max(1, len(stream) - 1))
    return st.lists(inner, max_size=5, unique=True).map(sorted)


@given(answers(), st.data())
def test_rows_are_what_was_sent_in_whatever_pieces(answer: Any, data: st.DataObject) -> None:
    parts, rows = answer
    stream = b"".join(packed(row) for part in rows for row in part)
    if not stream:
        return
    found = taken(parts, stream, data.draw(cuts_of(stream)))
    assert type(found) is RegularReplies
    for number, ((count, shape), wanted) in enumerate(zip(parts, rows, strict=True)):
        part = part_of(found, number, slice(0, 0))
        assert part.cells.shape[0] == count
        for n, row in enumerate(wanted):
            values = row[: len(row) - shape.num_times]
            for payload, value in zip(shape.payloads, values, strict=True):
                size = 8 if len(values) == 1 else 4
                assert part.cells[n, payload : payload + size].tobytes() == value[-size:]
            stamps = tuple(part.stamp(t, n) for t in range(shape.num_times))
            assert stamps == row[len(values) :]
            assert not part.stamps[:, n][np.arange(16) >= part.stamp_sizes[:, n, None]].any()


ODD = (
    packed((None, None)),
    packed((b"", b"")),
    packed((b"\x82\x01\x0a\x0a\x08" + bytes(8), None)),
    packed((b"\x82\x01\x0a\x0a\x08" + bytes(8), b"0123456789abc")),
    packed((b"\x82\x01\x0a\x0a\x07" + bytes(8), b"012345")),
    packed((b"\x82\x01\x0a\x0a\x08" + bytes(7), b"012345")),
    b"-ERR no\r\n",
    b"-LOADING Redis is loading\r\n",
    b":1\r\n",
    b"*-1\r\n",
    b"$-1\r\n",
)


@given(st.sampled_from([1, 12, 60]), st.data())
def test_an_odd_row_anywhere_is_found_and_nothing_is_waited_for(
    count: int, data: st.DataObject
) -> None:
    row = (b"\x82\x01\x0a\x0a\x08" + b"\r\n*2\r\n$1", b"0123456789a")
    pieces = [packed(row)] * count
    places = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=3, unique=True))
    for place in places:
        pieces[place] = data.draw(st.sampled_from(ODD))
    stream = b"".join(pieces)
    cuts = data.draw(cuts_of(stream))
    found = taken([(count, RowShape(VECTOR, 1))], stream, cuts)
    wanted = taken_by_hiredis(count, stream)
    assert type(found) is list
    assert [repr(reply) for reply in found] == [repr(reply) for reply in wanted]


def taken_by_hiredis(count: int, stream: bytes) -> list[Any]:
    replies = Replies()
    replies.expect(count)
    replies.space()[: len(stream)] = stream
    found = replies.received(len(stream))
    assert found is not None
    return found


@pytest.mark.parametrize("count", [1, 30])
def test_more_rows_than_were_asked_for_break_the_connection(count: int) -> None:
    row = packed((b"\x82\x01\x0a\x0a\x08" + bytes(8), b"012345"))
    with pytest.raises(ConnectionError, match="more than it was asked"):
        taken([(count, RowShape(VECTOR, 1))], row * (count + 1), [])


def test_an_answer_larger_than_the_buffer_is_taken_and_the_buffer_let_go() -> None:
    shape, row = RowShape(VECTOR, 1), packed((VECTOR[0][0] + b"12345678", b"0123456789ab"))
    count = 400_000 // len(row)
    found = taken([(count, shape)], row * count, [100_000, 300_000])
    assert type(found) is RegularReplies
    assert found[0].cells.shape[0] == count
    huge = 100_000
    assert type(taken([(huge, shape)], row * huge, [])) is list


def test_after_an_irregular_answer_the_next_may_be_regular() -> None:
    replies, shape = Replies(), RowShape(VECTOR, 1)
    regular = packed((VECTOR[0][0] + b"12345678", b"0123456789ab")) * 20
    for stream, kind in (
        (regular, RegularReplies),
        (b"-ERR no\r\n" * 20, list),
        (regular, RegularReplies),
    ):
        replies.expect(20, [(20, shape)])
        assert replies.received(0) is None
        replies.space()[: len(stream)] = stream
        found = replies.received(len(stream))
        assert type(found) is kind
