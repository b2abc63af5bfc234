"""A request body with many events: each is judged alone, so a bad one never loses a good one.

Accepted bodies: one event object, a JSON array of events, or ``{"events": [...]}``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import msgspec

from recsys.errors import EventError
from recsys.events.codec import decode
from recsys.events.schema import Event
from recsys.json_errors import explain

MAX_BATCH_EVENTS = 10_000
"""Bounds the answer, which names every refused event."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why one event of a batch was not taken."""

    index: int
    """Its place in the batch, from 0."""
    field: str
    """Path inside the event; ``""`` when the whole is wrong."""
    reason: str
    """Wanted and found, for the sender."""
    code: str
    """``malformed``, ``schema``, ``time`` or ``duplicate``."""

    @property
    def path(self) -> str:
        """Path from the batch: ``events[3].item_id``."""
        return f"events[{self.index}]" + (f".{self.field}" if self.field else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedBatch:
    """The good and the bad events of one body; every index is in exactly one of the two."""

    accepted: list[tuple[int, Event]]
    refused: list[Refusal]


class _Probe(msgspec.Struct):
    """Tells the two kinds of object apart without building anything."""

    kind: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    events: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_probe = msgspec.json.Decoder(_Probe).decode
_envelope = msgspec.json.Decoder(_Envelope).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode

_ARRAY_START = re.compile(rb'\s*(?:\{\s*"events"\s*:\s*)?\[')
# Complete strings, brackets and commas; a lone quote is a string that never ends.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|["\[\]{},]', re.DOTALL)


def decode_batch(data: bytes, *, now_ms: int | None) -> DecodedBatch:
    """Decode every event of a body.

    The same event id twice in one batch is kept once, at its first place; the others are refused
    with code ``duplicate``. When the body is not JSON because of some of its elements, the others
    are still taken.

    Args:
        data: The body.
        now_ms: The present, see ``codec.decode``.

    Raises:
        EventError: when the body as a whole is neither an event nor a list of at most
            ``MAX_BATCH_EVENTS`` elements.
    """
    elements = _elements(data)
    if len(elements) > MAX_BATCH_EVENTS:
        raise EventError(
            f"events: wanted at most {MAX_BATCH_EVENTS} in one request, found {len(elements)}; "
            "send them in several",
            field="events",
        )
    accepted: list[tuple[int, Event]] = []
    refused: list[Refusal] = []
    first_index: dict[str, int] = {}
    for index, element in enumerate(elements):
        try:
            event = decode(element, now_ms=now_ms)
        except EventError as error:
            refused.append(
                Refusal(index=index, field=error.field, reason=str(error), code=error.code)
            )
            continue
        first = first_index.setdefault(event.event_id, index)
        if first == index:
            accepted.append((index, event))
        else:
            reason = f"event_id: wanted an id used once, found that of events[{first}]; kept once"
            refused.append(Refusal(index=index, field="event_id", reason=reason, code="duplicate"))
    return DecodedBatch(accepted=accepted, refused=refused)


def _elements(data: bytes) -> list[bytes]:
    """Give the bytes of each event of a body."""
    try:
        if data.lstrip()[:1] == b"[":
            return [bytes(raw) for raw in _array(data)]
        probe = _probe(data)
        if probe.events is msgspec.UNSET or probe.kind is not msgspec.UNSET:
            return [data]
        return [bytes(raw) for raw in _envelope(data).events]
    except (ValueError, RecursionError) as error:
        why = explain(data, error, _envelope)
        if why.malformed:
            salvaged = _salvage(data)
            if salvaged is not None:
                return salvaged
        elif not why.field:
            wanted = 'an event, a list of events or {"events": [...]}'
            why = replace(why, wanted=wanted)
        elif why.field != "events":
            why = replace(why, wanted="nothing beside the list `events`")
        code = "malformed" if why.malformed else "schema"
        raise EventError(why.message, field=why.field, code=code) from error


def _salvage(data: bytes) -> list[bytes] | None:
    """Split the array of a body that is not JSON into its elements by quotes and brackets.

    ``None`` when it does not even begin as a list of events. What follows an element that never
    ends belongs to that element and is refused with it.
    """
    start = _ARRAY_START.match(data)
    if start is None:
        return None
    elements: list[bytes] = []
    depth = 0
    begin = start.end()
    for token in _TOKEN.finditer(data, begin):
        mark = token.group()
        if mark == b'"':
            break
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            if depth == 0:
                elements.append(data[begin : token.start()])
                begin = len(data)
                break
            depth -= 1
        elif mark == b"," and depth == 0:
            elements.append(data[begin : token.start()])
            begin = token.end()
    elements.append(data[begin:])
    return [element for element in elements if element.strip()]
