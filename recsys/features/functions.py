"""The functions an aggregation can name, and how their text is read.

Feast keeps ``Aggregation.function`` as a string, so arguments are written in it: ``last_n(20)``,
``decayed_sum(6h)``, ``session_count(30m)``, ``ratio(clicks_7d, impressions_7d)``.
``docs/aggregations.md`` says what each of them is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from recsys.errors import FeatureError

Component = Literal["count", "sum", "min", "max", "first_ms", "first", "last_ms", "last"]
ALL_COMPONENTS: tuple[Component, ...] = (
    "count", "sum", "min", "max", "first_ms", "first", "last_ms", "last",
)  # fmt: skip

COMPONENTS_OF: dict[str, tuple[Component, ...]] = {
    "count": ("count",),
    "sum": ("sum",),
    "mean": ("count", "sum"),
    "min": ("count", "min"),
    "max": ("count", "max"),
    "first": ("count", "first_ms", "first"),
    "last": ("count", "last_ms", "last"),
    "decayed_count": ("count",),
    "decayed_sum": ("count", "sum"),
}
"""What a tile must remember for each function that is read from tiles."""
SESSION_FUNCTIONS = ("session_count", "session_sum")
IDENTITY_FUNCTIONS = ("count_distinct", "last_n")
"""Functions of what an event names (``.item_id``, ``.category``) as well as of its value."""
FUNCTIONS = (*COMPONENTS_OF, *SESSION_FUNCTIONS, *IDENTITY_FUNCTIONS, "ratio")
LONGEST_LIST = 1024

_WITH_DURATION = ("decayed_count", "decayed_sum", *SESSION_FUNCTIONS)
_CALL = re.compile(r"(\w+)(?:\(([^()]*)\))?")
_DURATION = re.compile(r"([1-9]\d*)(s|m|h|d)")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Call:
    """A function with its argument."""

    name: str
    length: int = 0
    """Of ``last_n``: entries of the list."""
    duration_ms: int = 0
    """Half-life of a decay, gap of a session."""
    operands: tuple[str, ...] = ()
    """Of ``ratio``: names of the two aggregates."""


@lru_cache(maxsize=4096)
def parse(text: str) -> Call:
    """Read a function.

    Raises:
        FeatureError: when there is no such function or its argument does not fit.
    """
    match = _CALL.fullmatch(text.strip())
    if match is None or match[1] not in FUNCTIONS:
        raise FeatureError(f"wanted one of {', '.join(FUNCTIONS)}; found {text!r}")
    name, argument = match[1], (match[2] or "").strip()
    if name in _WITH_DURATION:
        span = _DURATION.fullmatch(argument)
        if span is None:
            raise FeatureError(f'wanted a duration, as in "{name}(30m)" or 6h, 7d; found {text!r}')
        return Call(name, duration_ms=int(span[1]) * _UNIT_MS[span[2]])
    if name == "last_n":
        if not (argument.isascii() and argument.isdigit() and 1 <= int(argument) <= LONGEST_LIST):
            raise FeatureError(
                f'wanted a length from 1 to {LONGEST_LIST}, as in "last_n(20)"; found {text!r}'
            )
        return Call(name, length=int(argument))
    if name == "ratio":
        operands = tuple(part.strip() for part in argument.split(","))
        if len(operands) != 2 or not all(operands):
            raise FeatureError(
                f'wanted two aggregates, as in "ratio(clicks_7d, impressions_7d)"; found {text!r}'
            )
        return Call(name, operands=operands)
    if match[2] is not None:
        raise FeatureError(f'wanted "{name}" without an argument; found {text!r}')
    return Call(name)
