"""Events to JSON bytes and back; decoding is also the validation, in one pass.

Nothing else in the system reads an event from bytes, so a value of type ``Event`` is a valid event.
Numbers outside their range, NaN and infinity (not JSON), unknown fields, wrong types, over-long
strings and texts that are not UTF-8 are refused by msgspec while it parses. What it cannot say
(control characters in identifiers, the spelling of type names, a clock ahead of ours, one
propensity per item) is checked here, from the fields that are already decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from recsys.errors import EventError
from recsys.events.schema import (
    IDENTIFIER_PATTERN,
    MAX_CLOCK_SKEW_MS,
    MAX_EVENT_BYTES,
    NAME_PATTERN,
    Event,
    FeedbackEvent,
    ForgetEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    LoggedEvent,
    UserEvent,
)
from recsys.json_errors import explain, shown

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode
_decode_logged = msgspec.json.Decoder(LoggedEvent).decode

# In JSON a control character can only be written as an escape, except DEL (0x7f). So a text with
# neither a backslash nor a DEL has no control character anywhere and needs no further look.
# (An int on the left of ``in`` is one memchr, four times faster than bytes of length one.)
_ESCAPE = ord("\\")
_DEL = 0x7F
# ``fullmatch``, because ``$`` would let a trailing newline pass.
_is_identifier = re.compile(IDENTIFIER_PATTERN).fullmatch
_is_name = re.compile(NAME_PATTERN).fullmatch
_good_names: set[str] = set()
"""Type names that were checked before. Bounded: a sender may invent new ones for ever."""
_MAX_GOOD_NAMES = 4096


def encode(event: LoggedEvent) -> bytes:
    """Give the JSON bytes of ``event``; fields at their default are left out.

    Limits are not checked again, except the total length, which would jam the log; ``decode`` of
    the result says whether an event built in code is valid.

    Raises:
        EventError: when it is longer than ``MAX_EVENT_BYTES`` or a string is not valid Unicode.
    """
    try:
        data = _encode(event)
    except (ValueError, OverflowError) as error:
        raise EventError(f"event {event.event_id!r} cannot be written as JSON: {error}") from error
    if len(data) > MAX_EVENT_BYTES:
        raise _too_long(len(data))
    return data


def decode(data: bytes, *, now_ms: int | None = None) -> Event:
    """Give the event in ``data``.

    Args:
        data: One JSON object in UTF-8.
        now_ms: The present. An event more than ``MAX_CLOCK_SKEW_MS`` after it is refused. ``None``
            leaves that out, for history that is read again.

    Raises:
        EventError: with the path of the wrong field (``"items[3]"``; ``""`` for the whole).
    """
    event: Event = _parse(data, _decode)
    if now_ms is not None and event.event_time_ms > now_ms + MAX_CLOCK_SKEW_MS:
        raise EventError(
            f"event_time_ms: wanted a time at most {MAX_CLOCK_SKEW_MS} ms ahead of the server's "
            f"{now_ms}, found {event.event_time_ms}; check the sender's clock and unit",
            field="event_time_ms",
            code="time",
        )
    _check(event, data)
    return event


def decode_logged(data: bytes) -> LoggedEvent:
    """Give what a record of the log holds: an event of a product, or one of ours.

    Raises:
        EventError: as ``decode``.
    """
    event: LoggedEvent = _parse(data, _decode_logged)
    _check(event, data)
    return event


def decode_all_logged(data: Sequence[bytes]) -> list[LoggedEvent]:
    """Give what each record of a batch holds; half the time of ``decode_logged`` for each.

    Raises:
        EventError: as ``decode``, of the first that is wrong.
    """
    if max(map(len, data), default=0) <= MAX_EVENT_BYTES:
        try:
            events: list[LoggedEvent] = list(map(_decode_logged, data))
        except (ValueError, TypeError, RecursionError):
            pass
        else:
            together = b"".join(data)
            if not (_ESCAPE in together or _DEL in together or _has_unchecked(events)):
                return events
    return [decode_logged(one) for one in data]


def _has_unchecked(events: Sequence[LoggedEvent]) -> bool:
    """Say whether ``_check`` has something to look at besides the texts."""
    kinds = set(map(type, events))
    named = kinds & {InteractionEvent, FeedbackEvent}
    if named:
        names = {event.type for event in events if type(event) in named}  # type: ignore[union-attr]
        if not names <= _good_names:
            return True
    return ImpressionEvent in kinds and any(
        event.propensities and len(event.propensities) != len(event.items)
        for event in events
        if type(event) is ImpressionEvent
    )


def _parse(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    if len(data) > MAX_EVENT_BYTES:
        raise _too_long(len(data))
    try:
        return decode(data)
    except (ValueError, RecursionError) as error:
        why = explain(data, error, decode)
        code = "malformed" if why.malformed else "schema"
        raise EventError(why.message, field=why.field, code=code) from error


def _check(event: LoggedEvent, data: bytes) -> None:
    """Refuse what msgspec cannot say is wrong."""
    if isinstance(event, (InteractionEvent, FeedbackEvent)):
        if event.type not in _good_names:
            _check_name(event.type)
    elif isinstance(event, ImpressionEvent) and event.propensities:
        _check_propensities(event)
    if _ESCAPE in data or _DEL in data:
        _check_identifiers(event)


def _too_long(length: int) -> EventError:
    return EventError(
        f"wanted an event of at most {MAX_EVENT_BYTES} bytes, found {length}; "
        "shorten its text or split its list",
        code="malformed",
    )


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise EventError(
            f"type: wanted lower-case words joined by underscores, found {shown(name)}",
            field="type",
        )
    if len(_good_names) < _MAX_GOOD_NAMES:
        _good_names.add(name)


def _check_propensities(event: ImpressionEvent) -> None:
    if len(event.propensities) != len(event.items):
        raise EventError(
            f"propensities: wanted one for each of the {len(event.items)} items or none at all, "
            f"found {len(event.propensities)}",
            field="propensities",
        )


def _check_identifiers(event: LoggedEvent) -> None:
    values: list[tuple[str, str | None]] = [("event_id", event.event_id)]
    match event:
        case ItemEvent():
            values += [("item_id", event.item_id)]
        case UserEvent() | ForgetEvent():
            values += [("user_id", event.user_id)]
        case ImpressionEvent():
            values += [("user_id", event.user_id), ("request_id", event.request_id)]
            values += [(f"items[{i}]", item) for i, item in enumerate(event.items)]
        case InteractionEvent() | FeedbackEvent():
            values += [("user_id", event.user_id), ("item_id", event.item_id)]
            values += [("request_id", event.request_id)]
    for field, value in values:
        if value is not None and not _is_identifier(value):
            raise EventError(
                f"{field}: wanted no control characters, found {shown(value)}", field=field
            )
