"""Events to JSON bytes and back; decoding is also the validation, in one pass.

Nothing else in the system reads an event from bytes, so a value of type ``Event`` is a valid event.
Numbers outside their range, NaN and infinity (not JSON), unknown fields, wrong types, over-long
strings and texts that are not UTF-8 are refused by msgspec while it parses. What it cannot say
(control characters in identifiers, the spelling of type names, a clock ahead of ours, one
propensity per item) is checked here, from the fields that are already decoded.
"""

from __future__ import annotations

import re

import msgspec

from recsys.errors import EventError
from recsys.events.schema import (
    IDENTIFIER_PATTERN,
    MAX_CLOCK_SKEW_MS,
    MAX_EVENT_BYTES,
    NAME_PATTERN,
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode

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

_AT_PATH = re.compile(r" - at `(?:key` in `)?\$\.?(.*)`$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"Object missing required field `(.*)`$", re.DOTALL)
_EXPECTED_GOT = re.compile(r"^Expected `(.+?)`(.*), got `(.+)`$", re.DOTALL)
_MALFORMED_AT = re.compile(r"\(byte (\d+)\)$")
_NOT_FINITE = re.compile(rb"-?(?:NaN|Infinity|inf|nan)")
_LAST_KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:[^"]*$')
_PATH_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_MAX_SHOWN = 60


def encode(event: Event) -> bytes:
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
    if len(data) > MAX_EVENT_BYTES:
        raise _too_long(len(data))
    try:
        event: Event = _decode(data)
    except (ValueError, RecursionError) as error:
        raise _explain(data, error) from error
    if now_ms is not None and event.event_time_ms > now_ms + MAX_CLOCK_SKEW_MS:
        raise EventError(
            f"event_time_ms: wanted a time at most {MAX_CLOCK_SKEW_MS} ms ahead of the server's "
            f"{now_ms}, found {event.event_time_ms}; check the sender's clock and unit",
            field="event_time_ms",
            code="time",
        )
    if isinstance(event, (InteractionEvent, FeedbackEvent)):
        if event.type not in _good_names:
            _check_name(event.type)
    elif isinstance(event, ImpressionEvent) and event.propensities:
        _check_propensities(event)
    if _ESCAPE in data or _DEL in data:
        _check_identifiers(event)
    return event


def _too_long(length: int) -> EventError:
    return EventError(
        f"wanted an event of at most {MAX_EVENT_BYTES} bytes, found {length}; "
        "shorten its text or split its list",
        code="malformed",
    )


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise EventError(
            f"type: wanted lower-case words joined by underscores, found {_shown(name)}",
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


def _check_identifiers(event: Event) -> None:
    values: list[tuple[str, str | None]] = [("event_id", event.event_id)]
    match event:
        case ItemEvent():
            values += [("item_id", event.item_id)]
        case UserEvent():
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
                f"{field}: wanted no control characters, found {_shown(value)}", field=field
            )


def _explain(data: bytes, error: Exception) -> EventError:
    """Turn what the parser said into wanted, found and the path of the field."""
    if isinstance(error, UnicodeDecodeError):
        return EventError(f"wanted UTF-8, found other bytes ({error.reason})", code="malformed")
    if isinstance(error, RecursionError):
        return EventError("wanted a flat JSON object, found deep nesting", code="malformed")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        if (at := _MALFORMED_AT.search(text)) and (
            number := _NOT_FINITE.match(data, max(int(at[1]) - 1, 0))
            or _NOT_FINITE.match(data, int(at[1]))
        ):
            key = _LAST_KEY.search(data[: number.start()])
            field = key[1].decode(errors="replace")[:_MAX_SHOWN] if key else ""
            return EventError(
                f"{field}: wanted a finite number, found {number[0].decode()}; leave the field out",
                field=field,
                code="malformed",
            )
        return EventError(f"wanted one JSON object, found something else: {text}", code="malformed")
    path = ""
    if at := _AT_PATH.search(text):
        path = at[1]
        text = text[: at.start()]
    if unknown := _UNKNOWN_FIELD.search(text):
        field = f"{path}.{unknown[1]}" if path else unknown[1]
        return EventError(
            f"{field[:_MAX_SHOWN]}: wanted only fields of the schema, found an unknown field",
            field=field[:_MAX_SHOWN],
        )
    if missing := _MISSING_FIELD.search(text):
        field = f"{path}.{missing[1]}" if path else missing[1]
        return EventError(f"{field}: wanted this field, found none", field=field)
    if got := _EXPECTED_GOT.search(text):
        wanted, found = f"{got[1]}{got[2]}", got[3]
    elif text.startswith("Expected "):
        wanted, found = text.removeprefix("Expected ").replace("`", ""), _value_at(data, path)
    else:
        wanted, found = "a valid value", f"{text[0].lower()}{text[1:]}"[: 2 * _MAX_SHOWN]
    where = f"{path}: " if path else ""
    return EventError(f"{where}wanted {wanted}, found {found}", field=path)


def _value_at(data: bytes, path: str) -> str:
    """Show the value at ``path``, when the rest of the text is JSON too."""
    try:
        value = msgspec.json.decode(data)
        for name, index in _PATH_STEP.findall(path):
            value = value[int(index)] if index else value[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "another value"
    return _shown(value)


def _shown(value: object) -> str:
    text = repr(value)
    if len(text) <= _MAX_SHOWN:
        return text
    if isinstance(value, str | list | dict):
        return f"{type(value).__name__} of length {len(value)}: {text[:_MAX_SHOWN]}..."
    return f"{text[:_MAX_SHOWN]}..."
