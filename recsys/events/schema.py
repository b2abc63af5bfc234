"""The five events a product sends, version 1, and the one that only we send.

A line of JSON each, told apart by ``kind``. Unknown fields are refused: a misspelt optional field
would otherwise be lost in silence. A later version adds fields with defaults; a field is never
renamed or given another meaning, and ``schema_version`` says which version wrote the event.

Fields every event has:

``event_id``        unique for ever; the same id twice is the same event, counted once if the
                    second lies at most 10,000 records after the first in its partition
``event_time_ms``   when it happened, epoch milliseconds UTC (not when it was received)

Limits are part of the schema, so that one caller cannot fill the log.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from recsys.clock import MINUTE_MS

MIN_EVENT_TIME_MS = 946_684_800_000
"""2000-01-01. An earlier time is a unit mistake (seconds for milliseconds) or a zero clock."""
MAX_CLOCK_SKEW_MS = 5 * MINUTE_MS
"""How far ahead of ours a sender's clock may be."""
MAX_EVENT_TIME_MS = 4_102_444_800_000
"""2100-01-01. A later time is a unit mistake (microseconds for milliseconds)."""
MIN_BORN_MS = -2_208_988_800_000
"""1900-01-01. Books and films are older than 1970."""
MAX_EVENT_BYTES = 256 * 1024
"""Longest encoded event: an impression of 1,000 items with long ids fits several times."""
MAX_EXACT_INT = 2**53
"""Integers up to here survive a JavaScript sender and a float column unchanged."""

IDENTIFIER_PATTERN = r"^[^\x00-\x1f\x7f]+$"
NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
# The two patterns are documented in the JSON schema and enforced by codec.decode, which needs no
# regular expression for it on the usual event: a pattern in Meta would cost four fifths of the
# time of decoding.
Identifier = Annotated[
    str, Meta(min_length=1, max_length=128, extra_json_schema={"pattern": IDENTIFIER_PATTERN})
]
"""An outside identity: 1 to 128 characters, none of them a control character."""
Name = Annotated[
    str, Meta(min_length=1, max_length=64, extra_json_schema={"pattern": NAME_PATTERN})
]
"""A type name: lower-case words joined by underscores, such as ``add_to_cart``."""
EventTimeMs = Annotated[int, Meta(ge=MIN_EVENT_TIME_MS, lt=MAX_EVENT_TIME_MS)]
Position = Annotated[int, Meta(ge=0, le=1_000_000)]
"""Place in the shown list, from 0."""
Probability = Annotated[float, Meta(gt=0.0, le=1.0)]
Finite = Annotated[float, Meta(ge=-1e12, le=1e12)]
"""A number that is neither infinite nor NaN."""
AttributeKey = Annotated[str, Meta(min_length=1, max_length=64)]
AttributeText = Annotated[str, Meta(max_length=256)]
AttributeList = Annotated[list[AttributeText], Meta(max_length=64)]
AttributeInt = Annotated[int, Meta(ge=-MAX_EXACT_INT, le=MAX_EXACT_INT)]
AttributeValue = bool | AttributeInt | Finite | AttributeText | AttributeList
Attributes = Annotated[dict[AttributeKey, AttributeValue], Meta(max_length=64)]
Context = Annotated[dict[AttributeKey, AttributeText], Meta(max_length=16)]
"""What surrounded the request: device, page, country of the session."""


class _Event(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
):
    event_id: Identifier
    event_time_ms: EventTimeMs
    schema_version: Literal[1] = 1


class ItemEvent(_Event, frozen=True, kw_only=True, tag="item"):
    """An item came into being, changed or was withdrawn (not ``available``). Whole, not a diff."""

    item_id: Identifier
    title: Annotated[str, Meta(max_length=512)] = ""
    text: Annotated[str, Meta(max_length=8192)] = ""
    category: Annotated[str, Meta(max_length=64)] = ""
    price: Annotated[float, Meta(ge=0.0, le=1e12)] | None = None
    born_ms: Annotated[int, Meta(ge=MIN_BORN_MS, lt=MAX_EVENT_TIME_MS)] | None = None
    """When the item was first offered; unset means this event's time."""
    available: bool = True
    attributes: Attributes = {}


class UserEvent(_Event, frozen=True, kw_only=True, tag="user"):
    """A user came into being or changed. Whole, not a diff."""

    user_id: Identifier
    attributes: Attributes = {}


class ImpressionEvent(_Event, frozen=True, kw_only=True, tag="impression"):
    """A list was really shown: ``items[i]`` at position ``first_position + i``."""

    user_id: Identifier
    request_id: Identifier
    items: Annotated[list[Identifier], Meta(min_length=1, max_length=1000)]
    first_position: Position = 0
    propensities: Annotated[list[Probability], Meta(max_length=1000)] = []
    """Chance of each item at its place under the logging policy; empty when unknown."""
    policy: Annotated[str, Meta(max_length=128)] = ""
    context: Context = {}


class InteractionEvent(_Event, frozen=True, kw_only=True, tag="interaction"):
    """A user acted on an item: click, purchase, long_view …"""

    user_id: Identifier
    item_id: Identifier
    type: Name
    value: Finite = 1.0
    """Weight, quantity, money or seconds, as the data set's mapping defines it for this type."""
    request_id: Identifier | None = None
    """The request whose list was acted on, when there was one."""
    position: Position | None = None
    context: Context = {}


class FeedbackEvent(_Event, frozen=True, kw_only=True, tag="feedback"):
    """A user said something about an item: rating, like, hide, not_interested …"""

    user_id: Identifier
    item_id: Identifier
    type: Name
    value: Finite = 1.0
    request_id: Identifier | None = None
    position: Position | None = None
    context: Context = {}


class ForgetEvent(_Event, frozen=True, kw_only=True, tag="forget"):
    """Everything about a user before this record is to be gone (``recsys forget``).

    It lies in the log behind what it erases, so that reading the log anew erases again. The API
    does not take it: whoever may send events may not therefore erase people.
    """

    user_id: Identifier


Event = ItemEvent | UserEvent | ImpressionEvent | InteractionEvent | FeedbackEvent
UserSideEvent = UserEvent | ImpressionEvent | InteractionEvent | FeedbackEvent
LoggedEvent = Event | ForgetEvent
"""What the log may hold."""

EVENT_KINDS: tuple[str, ...] = ("item", "user", "impression", "interaction", "feedback")
