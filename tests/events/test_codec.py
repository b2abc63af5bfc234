from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recsys.errors import EventError
from recsys.events.batch import MAX_BATCH_EVENTS, decode_batch
from recsys.events.codec import decode, decode_all_logged, decode_logged, encode
from recsys.events.event_columns import to_events, to_frame
from recsys.events.log import Record
from recsys.events.schema import (
    MAX_CLOCK_SKEW_MS,
    MAX_EVENT_BYTES,
    Event,
    ForgetEvent,
    ImpressionEvent,
    LoggedEvent,
)
from tests.events.samples import DAY, click, events

GOOD: dict[str, Any] = {
    "kind": "interaction",
    "event_id": "e1",
    "event_time_ms": DAY,
    "user_id": "u",
    "item_id": "i",
    "type": "click",
}
SHOWN: dict[str, Any] = {
    "kind": "impression",
    "event_id": "e1",
    "event_time_ms": DAY,
    "user_id": "u",
    "request_id": "r",
    "items": ["a", "b"],
}


def bytes_of(event: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (event | changes).items() if v is not ...}).encode()


@given(events)
def test_every_valid_event_round_trips(event: Event) -> None:
    assert decode(encode(event)) == event
    assert decode_logged(encode(event)) == event


def test_the_log_may_hold_what_a_product_may_not_send() -> None:
    forget = ForgetEvent(event_id="f1", event_time_ms=DAY, user_id="u")
    data = encode(forget)
    assert decode_logged(data) == forget
    with pytest.raises(EventError, match="forget"):
        decode(data)
    with pytest.raises(EventError, match="control characters"):
        decode_logged(encode(ForgetEvent(event_id="f1", event_time_ms=DAY, user_id="u\n")))
    (back,) = to_events(to_frame([(Record("t", 0, 7, b"u", data, DAY), forget)]))
    assert back == forget


WRONG = [
    b"",
    b"{}",
    b"null",
    bytes_of(GOOD, user_id="u\n"),
    bytes_of(GOOD, type="No Name"),
    bytes_of(GOOD, context={"a": "x" * MAX_EVENT_BYTES}),
    bytes_of(SHOWN, propensities=[0.5]),
    bytes_of(SHOWN, propensities=[0.5, 0.5]),
]
"""All but the last, which shares its fields with a wrong one."""


def alone(data: bytes) -> LoggedEvent | str:
    """Give the event, or what is wrong with it."""
    try:
        return decode_logged(data)
    except EventError as error:
        return str(error)


@given(st.lists(events.map(encode), max_size=6), st.lists(st.sampled_from(WRONG), max_size=2))
def test_a_batch_is_decoded_as_each_of_it(good: list[bytes], wrong: list[bytes]) -> None:
    """The same events, or the first one's error; wrong ones are looked for with few looks."""
    data = good + wrong
    each = [alone(one) for one in data]
    faults = [one for one in each if isinstance(one, str)]
    if faults:
        with pytest.raises(EventError, match=re.escape(faults[0])):
            decode_all_logged(data)
    else:
        assert decode_all_logged(data) == each


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(st.binary() | _json.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"kind":"user","event_id":"a","event_time_ms":' + b"1" * 5000 + b"}")
@example(b'{"kind":"user","attributes":{"a":' + b"[" * 100_000)
def test_any_bytes_are_an_event_or_an_event_error(data: bytes) -> None:
    try:
        decode(data, now_ms=DAY)
    except EventError as error:
        assert str(error)
    try:
        decode_batch(data, now_ms=DAY)
    except EventError as error:
        assert str(error)


@given(events, st.sampled_from(sorted(GOOD | SHOWN)), _json)
def test_any_value_in_any_field_is_an_event_or_an_event_error(
    event: Event, field: str, value: Any
) -> None:
    document = json.loads(encode(event)) | {field: value}
    try:
        decode(json.dumps(document).encode(), now_ms=DAY)
    except EventError as error:
        assert str(error)


@given(events, st.data())
def test_a_flipped_byte_is_an_event_or_an_event_error(event: Event, data: st.DataObject) -> None:
    encoded = bytearray(encode(event))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(encoded))
    except EventError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("data", "field", "code", "says"),
    [
        (b"\xff", "", "malformed", "wanted one JSON object"),
        (b"", "", "malformed", "wanted"),
        (b"{", "", "malformed", "truncated"),
        (b"null", "", "schema", "wanted object, found null"),
        (b"[]", "", "schema", "wanted object, found array"),
        (bytes_of(GOOD).replace(b'"u"', b'"\xff"'), "", "malformed", "UTF-8"),
        (bytes_of(GOOD, kind=...), "kind", "schema", "found none"),
        (bytes_of(GOOD, kind="order"), "kind", "schema", "'order'"),
        (bytes_of(GOOD, item_id=...), "item_id", "schema", "found none"),
        (bytes_of(GOOD, item_id=7), "item_id", "schema", "wanted str, found int"),
        (bytes_of(GOOD, item_id=""), "item_id", "schema", "length >= 1, found ''"),
        (bytes_of(GOOD, item_id="x" * 129), "item_id", "schema", "length <= 128, found str of"),
        (bytes_of(GOOD, item_id="a\nb"), "item_id", "schema", "control"),
        (bytes_of(GOOD, item_id="a\n"), "item_id", "schema", "control"),
        (bytes_of(GOOD).replace(b'"i"', b'"i\x7f"'), "item_id", "schema", "control"),
        (bytes_of(GOOD, valu=3), "valu", "schema", "unknown field"),
        (bytes_of(GOOD, value="3"), "value", "schema", "wanted float, found str"),
        (bytes_of(GOOD, value=1e13), "value", "schema", "found 10000000000000"),
        (bytes_of(GOOD, value=float("nan")), "value", "malformed", "found NaN"),
        (bytes_of(GOOD, value=float("inf")), "value", "malformed", "found Infinity"),
        (bytes_of(GOOD).replace(b'"click"', b'"click", "value": 1e400'), "value", "schema", ""),
        (bytes_of(GOOD, type="Click"), "type", "schema", "found 'Click'"),
        (bytes_of(GOOD, type="click\n"), "type", "schema", "lower-case"),
        (bytes_of(GOOD, position=-1), "position", "schema", "found -1"),
        (bytes_of(GOOD, context={"b": "", "a": 1}), "context.a", "schema", "wanted str, found int"),
        (bytes_of(GOOD, context={"": "b"}), "context", "schema", "length >= 1, found ''"),
        (
            bytes_of(GOOD, user_id="\ud800"),
            "user_id",
            "malformed",
            r"half a surrogate pair, \ud800",
        ),
        (bytes_of(GOOD, schema_version=2), "schema_version", "schema", "2"),
        (bytes_of(GOOD, event_time_ms=DAY // 1000), "event_time_ms", "schema", "found 1726000000"),
        (bytes_of(GOOD, event_time_ms=0), "event_time_ms", "schema", "found 0"),
        (bytes_of(GOOD, event_time_ms=DAY * 1000), "event_time_ms", "schema", "<="),
        (bytes_of(GOOD, event_time_ms=DAY + MAX_CLOCK_SKEW_MS + 1), "event_time_ms", "time", "ms"),
        (bytes_of(SHOWN, items=[]), "items", "schema", "length >= 1"),
        (bytes_of(SHOWN, items=["a", 1]), "items[1]", "schema", "wanted str, found int"),
        (bytes_of(SHOWN, items=["a", "b\u0000"]), "items[1]", "schema", "control"),
        (bytes_of(SHOWN, items=["a"] * 1001), "items", "schema", "length <= 1000"),
        (bytes_of(SHOWN, propensities=[0.5]), "propensities", "schema", "2 items"),
        (bytes_of(SHOWN, propensities=[0.5, 0]), "propensities[1]", "schema", "> 0"),
        (b" " * (MAX_EVENT_BYTES + 1), "", "malformed", "at most 262144 bytes"),
    ],
)
def test_a_bad_event_names_the_field_and_what_was_found(
    data: bytes, field: str, code: str, says: str
) -> None:
    with pytest.raises(EventError) as caught:
        decode(data, now_ms=DAY)
    assert (caught.value.field, caught.value.code) == (field, code)
    assert says in str(caught.value)


def test_history_is_read_without_a_present() -> None:
    late = click(1, time_ms=DAY + MAX_CLOCK_SKEW_MS + 1)
    assert decode(encode(late)) == late
    assert decode(encode(late), now_ms=DAY + 1) == late


def test_an_event_that_cannot_be_written_is_said() -> None:
    with pytest.raises(EventError, match="cannot be written"):
        encode(click(1, user="\ud800"))
    long = ImpressionEvent(
        event_id="e", event_time_ms=DAY, user_id="u", request_id="r", items=["ü" * 128] * 1100
    )
    with pytest.raises(EventError, match="at most"):
        encode(long)


def test_one_event_is_a_batch() -> None:
    batch = decode_batch(encode(click(1)), now_ms=DAY)
    assert batch.accepted == [(0, click(1))]
    assert batch.refused == []


def body(elements: list[bytes], *, wrapped: bool) -> bytes:
    array = b"[" + b",".join(elements) + b"]"
    return b'{"events": ' + array + b"}" if wrapped else array


BAD = [
    bytes_of(GOOD, item_id=7),
    bytes_of(GOOD).replace(b'"u"', b'"\xff"'),
    bytes_of(GOOD, value=float("nan")),
    b'{"kind": tru}',
    b'{"kind" "user"}',
    b"{]}",
    b'"text"',
    b"17",
    b"nothing",
]


@given(st.data(), st.booleans())
def test_bad_events_never_lose_the_good_ones(data: st.DataObject, wrapped: bool) -> None:
    flags = data.draw(st.lists(st.booleans(), max_size=8))
    elements = [
        encode(click(n)) if good else data.draw(st.sampled_from(BAD[:5] + BAD[6:]))
        for n, good in enumerate(flags)
    ]
    batch = decode_batch(body(elements, wrapped=wrapped), now_ms=DAY)
    assert batch.accepted == [(n, click(n)) for n, good in enumerate(flags) if good]
    assert [refusal.index for refusal in batch.refused] == [
        n for n, good in enumerate(flags) if not good
    ]


def test_a_body_cut_off_keeps_what_is_whole() -> None:
    whole = body([encode(click(n)) for n in range(3)], wrapped=True)
    batch = decode_batch(whole[:-40], now_ms=DAY)
    assert batch.accepted == [(0, click(0)), (1, click(1))]
    (refusal,) = batch.refused
    assert (refusal.index, refusal.code) == (2, "malformed")


def test_the_same_id_twice_in_a_batch_is_kept_once() -> None:
    batch = decode_batch(body([encode(click(1)), encode(click(1))], wrapped=False), now_ms=DAY)
    assert batch.accepted == [(0, click(1))]
    (refusal,) = batch.refused
    assert (refusal.index, refusal.code, refusal.path) == (1, "duplicate", "events[1].event_id")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"7", ""),
        (b'"events"', ""),
        (b"{", ""),
        (b"events", ""),
        (b"\xff\xfe", ""),
        (b'{"events": {}}', "events"),
        (b'{"events": [], "more": 1}', "more"),
        (body([b"1"] * (MAX_BATCH_EVENTS + 1), wrapped=True), "events"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_whole(data: bytes, field: str) -> None:
    with pytest.raises(EventError) as caught:
        decode_batch(data, now_ms=DAY)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            b'{"events": [], "more": 1}',
            "more: wanted nothing beside the list `events`, found an unknown field",
        ),
        (b"7", 'wanted an event, a list of events or {"events": [...]}, found int'),
        (b'{"events": 5}', "events: wanted array, found int"),
        (
            b'{"kind": "user", "user_id": "\\udc00"}',
            r"user_id: wanted Unicode text, found half a surrogate pair, \udc00 at byte 29",
        ),
    ],
)
def test_a_body_that_is_no_batch_says_wanted_and_found(data: bytes, says: str) -> None:
    with pytest.raises(EventError) as caught:
        decode_batch(data, now_ms=DAY)
    assert str(caught.value) == says


def test_an_empty_object_is_one_bad_event() -> None:
    (refusal,) = decode_batch(b"{}", now_ms=DAY).refused
    assert refusal.field == "kind"
