"""Random valid events for property tests, and a few plain ones."""

from __future__ import annotations

from hypothesis import strategies as st

from recsys.events.schema import (
    MAX_EVENT_TIME_MS,
    MAX_EXACT_INT,
    MIN_BORN_MS,
    MIN_EVENT_TIME_MS,
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)

DAY = 1_726_000_000_000

_text = st.text(st.characters(codec="utf-8"), max_size=40)
_identifier = st.text(
    st.characters(codec="utf-8", exclude_characters=[chr(c) for c in (*range(32), 127)]),
    min_size=1,
    max_size=128,
)
_name = st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True)
_time = st.integers(MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS - 1)
_finite = st.floats(-1e12, 1e12)
_key = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
_context = st.dictionaries(_key, _text, max_size=4)
_attributes = st.dictionaries(
    _key,
    st.booleans()
    | st.integers(-MAX_EXACT_INT, MAX_EXACT_INT)
    | _finite
    | _text
    | st.lists(_text, max_size=4),
    max_size=4,
)
_common = {"event_id": _identifier, "event_time_ms": _time}
_acts = {
    **_common,
    "user_id": _identifier,
    "item_id": _identifier,
    "type": _name,
    "value": _finite,
    "request_id": st.none() | _identifier,
    "position": st.none() | st.integers(0, 1_000_000),
    "context": _context,
}


@st.composite
def _impressions(draw: st.DrawFn) -> ImpressionEvent:
    items = draw(st.lists(_identifier, min_size=1, max_size=6))
    chance = st.floats(0, 1, exclude_min=True)
    return ImpressionEvent(
        event_id=draw(_identifier),
        event_time_ms=draw(_time),
        user_id=draw(_identifier),
        request_id=draw(_identifier),
        items=items,
        first_position=draw(st.integers(0, 1_000_000)),
        propensities=draw(st.just([]) | st.lists(chance, min_size=len(items), max_size=len(items))),
        policy=draw(_text),
        context=draw(_context),
    )


events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        ItemEvent,
        **_common,
        item_id=_identifier,
        title=_text,
        text=_text,
        category=_text,
        price=st.none() | st.floats(0, 1e12),
        born_ms=st.none() | st.integers(MIN_BORN_MS, MAX_EVENT_TIME_MS - 1),
        available=st.booleans(),
        attributes=_attributes,
    ),
    st.builds(UserEvent, **_common, user_id=_identifier, attributes=_attributes),
    _impressions(),
    st.builds(InteractionEvent, **_acts),
    st.builds(FeedbackEvent, **_acts),
)


def click(n: int, *, user: str = "u", time_ms: int = DAY) -> InteractionEvent:
    return InteractionEvent(
        event_id=f"e{n}", event_time_ms=time_ms, user_id=user, item_id=f"i{n}", type="click"
    )
