"""Requests and answers as bytes."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from recsys.features.redis.commands import hmgets, pack, pack_wanted, slot_of
from recsys.features.redis.replies import ErrorReply, Replies


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=8))
def test_a_command_is_packed_as_hiredis_packs_it(arguments: list[bytes]) -> None:
    assert pack(*arguments) == hiredis.pack_command(tuple(arguments))


@given(st.lists(st.binary(max_size=1100), max_size=5), st.lists(st.binary(max_size=9), max_size=4))
def test_hmgets_are_packed_as_hiredis_packs_them(keys: list[bytes], fields: list[bytes]) -> None:
    wanted = [hiredis.pack_command((b"HMGET", key, *fields)) for key in keys]
    assert hmgets(keys, tuple(fields)) == wanted
    assert pack_wanted([(key, fields) for key in keys]) == wanted


@given(st.one_of(st.binary(), st.text("{}ab").map(str.encode)))
def test_slots_are_those_of_the_cluster(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


def fed(replies: Replies, data: bytes) -> list[Any] | None:
    replies.space()[: len(data)] = data
    return replies.received(len(data))


@given(st.data())
def test_replies_may_come_in_any_pieces(data: st.DataObject) -> None:
    stream = b"*2\r\n$1\r\na\r\n$-1\r\n:7\r\n-MOVED 1 h:2\r\n$0\r\n\r\n"
    replies = Replies()
    replies.expect(4)
    at, taken = 0, None
    while at < len(stream):
        assert taken is None
        end = data.draw(st.integers(at + 1, len(stream)))
        taken, at = fed(replies, stream[at:end]), end
    assert taken is not None
    assert taken[0] == [b"a", None]
    assert taken[1] == 7
    assert isinstance(taken[2], ErrorReply)
    assert taken[2].code == "MOVED"
    assert taken[3] == b""
    assert not replies.has_begun


def test_more_than_was_asked_for_breaks_the_connection() -> None:
    replies = Replies()
    replies.expect(1)
    with pytest.raises(ConnectionError, match="more than it was asked"):
        fed(replies, b":1\r\n:2\r\n")


def test_what_is_not_redis_breaks_the_connection() -> None:
    replies = Replies()
    replies.expect(1)
    with pytest.raises(ConnectionError, match="no Redis"):
        fed(replies, b"HTTP/1.1 400 Bad Request\r\n")
