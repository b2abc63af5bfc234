"""What an item event says of an item, as tokens and as words: the same offline and live."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import msgspec

from recsys.events.schema import ItemEvent

STEPS_PER_OCTAVE = 4
"""A number becomes the token of its size, a quarter of an octave (19 %) wide: a model learns of 87
seconds from 90, and not of every millisecond by itself."""


def item_tokens(category: str, attributes: str | None) -> tuple[str, ...]:
    """Give category and attributes (a JSON object) as tokens, by name.

    A list gives one token for each element, a number with a fraction in the file the token of its
    size; whole numbers, which are often identities, stay as they are.

    >>> item_tokens("toys", '{"tags": ["wood", "red"], "weight": 87.0, "maker": 12}')
    ('category=toys', 'maker=12', 'tags=wood', 'tags=red', 'weight~26')
    """
    tokens = [f"category={category}"] if category else []
    for key, value in sorted(json.loads(attributes).items() if attributes else ()):
        for v in value if isinstance(value, list) else [value]:
            if isinstance(v, float):
                size = round(STEPS_PER_OCTAVE * math.log2(1.0 + abs(v)))
                tokens.append(f"{key}~{'-' if v < 0 else ''}{size}")
            else:
                tokens.append(f"{key}={v}")
    return tuple(tokens)


def item_text(title: str, attributes: str | None, text: str) -> str:
    """Give the words a tower reads: the first ones count, so attributes stand before free text."""
    return " ".join((title, _attribute_words(attributes), "" if text == title else text))


def event_tokens(event: ItemEvent) -> tuple[str, ...]:
    """Give ``item_tokens`` of an event that is not in the Parquet log yet."""
    return item_tokens(event.category, _as_logged(event))


def event_text(event: ItemEvent) -> str:
    """Give ``item_text`` of an event that is not in the Parquet log yet."""
    return item_text(event.title, _as_logged(event), event.text)


def _as_logged(event: ItemEvent) -> str | None:
    return msgspec.json.encode(event.attributes).decode() if event.attributes else None


def _attribute_words(attributes: str | None) -> str:
    """Give attributes (a JSON object in the log) as words, keys kept apart by ``key_value``."""
    if not attributes:
        return ""
    found = json.loads(attributes)
    words: list[str] = []
    for key, value in sorted(found.items()):
        values: Sequence[object] = value if isinstance(value, list) else [value]
        words += [f"{key}{_squeeze(v)}" for v in values if not isinstance(v, float)]
    return " ".join(words)


def _squeeze(value: object) -> str:
    return "".join(c for c in str(value) if c.isalnum())
