"""What a feature's values are expected to be, declared as tags in the Feast repository.

Tags of a field (all are text, as Feast has it):

``min``, ``max``        bounds, inclusive; of a list or a string, bounds of its length
``max_null_share``      share of entities that may have no value, 0 to 1
``max_zero_share``      share of entities whose value may be 0 (an empty window is 0)
``max_cardinality``     distinct values there may be

Tag of a view: ``max_age``, longest time since its newest event: ``90s``, ``15m``, ``6h``, ``1d``.
Other tags are Feast's and yours; one that begins like a rule and is none is refused, since a
misspelt expectation would never fail.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from recsys.errors import FeatureError

FIELD_TAGS = ("min", "max", "max_null_share", "max_zero_share", "max_cardinality")
VIEW_TAGS = ("max_age",)
_SHARES = ("max_null_share", "max_zero_share")
_UNITS_MS = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


class Expectation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rules of one feature, or of a whole view (``feature`` empty); ``None`` is no rule.

    They are no part of the plan's schema hash: what is expected of a value does not change it.
    """

    view: str
    feature: str = ""
    min: float | None = None
    max: float | None = None
    max_null_share: float | None = None
    max_zero_share: float | None = None
    max_cardinality: int | None = None
    max_age_ms: int | None = None


def of_field(view: str, feature: str, tags: Mapping[str, str]) -> Expectation | None:
    """Give what the tags of a field expect; ``None`` when they expect nothing.

    Raises:
        FeatureError: when a tag is no rule or its value none.
    """
    where = f'feature "{feature}" of view "{view}"'
    _refuse_unknown(where, tags, FIELD_TAGS)
    rules = {name: _number(where, name, tags[name]) for name in FIELD_TAGS if name in tags}
    if not rules:
        return None
    if rules.get("min", -math.inf) > rules.get("max", math.inf):
        raise FeatureError(f"{where}: wanted min <= max, found {tags['min']} and {tags['max']}")
    for name in _SHARES:
        if not 0 <= rules.get(name, 0) <= 1:
            raise FeatureError(f"{where}: wanted {name} in 0 … 1, found {tags[name]}")
    cardinality = rules.get("max_cardinality")
    if cardinality is not None and (cardinality < 0 or cardinality != int(cardinality)):
        raise FeatureError(
            f"{where}: wanted max_cardinality as a whole number, found {tags['max_cardinality']}"
        )
    return Expectation(
        view=view,
        feature=feature,
        min=rules.get("min"),
        max=rules.get("max"),
        max_null_share=rules.get("max_null_share"),
        max_zero_share=rules.get("max_zero_share"),
        max_cardinality=None if cardinality is None else int(cardinality),
    )


def of_view(view: str, tags: Mapping[str, str]) -> Expectation | None:
    """Give what the tags of a view expect; ``None`` when they expect nothing.

    Raises:
        FeatureError: when a tag is no rule or its value none.
    """
    where = f'view "{view}"'
    _refuse_unknown(where, tags, VIEW_TAGS)
    if "max_age" not in tags:
        return None
    return Expectation(view=view, max_age_ms=duration_ms(tags["max_age"], f"max_age of {where}"))


def duration_ms(text: str, what: str) -> int:
    """Give the milliseconds of ``90s``, ``15m``, ``6h``, ``1d``.

    Raises:
        FeatureError: when it is none; ``what`` says of what.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None or float(match[1]) == 0:
        raise FeatureError(f'{what}: wanted a time such as 90s, 15m, 6h or 1d, found "{text}"')
    return round(float(match[1]) * _UNITS_MS[match[2]])


def _refuse_unknown(where: str, tags: Mapping[str, str], known: tuple[str, ...]) -> None:
    unknown = [t for t in tags if re.match(r"(min|max)(_|$)", t) and t not in known]
    if unknown:
        raise FeatureError(
            f"{where}: wanted expectations among {', '.join(known)}; found {', '.join(unknown)}"
        )


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FeatureError(f'{where}: wanted {name} as a number, found "{text}"')
    return value
