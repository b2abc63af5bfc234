"""The tensors of an exposure as named features, compared one by one.

A feature is a part of one view; a view is read, cached and written as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.features import names
from recsys.features.request_time import REQUEST_TIME_FEATURES
from recsys.models.encode import KNOWN_FEATURE, UserEncoding
from recsys.models.request_tokens import REQUEST_TOKENS

REQUEST_TIME = "request_time"
"""Stands for a view: features of the moment, and whether the user is known."""
Tensors = Mapping[str, NDArray[Any]]


class Part(NamedTuple):
    """Where one feature lies in the tensors of ``signature.user_context``, batch axis 1."""

    view: str
    feature: str
    tensor: str
    column: int | None
    """Of the last axis; ``None`` for the whole tensor."""

    def of(self, tensors: Tensors) -> NDArray[Any]:
        """Give the values."""
        tensor = tensors[self.tensor]
        return tensor if self.column is None else tensor[..., self.column]

    @property
    def moves_with_the_moment(self) -> bool:
        """Whether it changes by the millisecond without any event."""
        return self.view == REQUEST_TIME or self.tensor == "history_age_s"


def parts_of(encoding: UserEncoding) -> tuple[Part, ...]:
    """Give the features of a bundle's user context."""
    dense = [*encoding.user_activity, *REQUEST_TIME_FEATURES, KNOWN_FEATURE]
    num_activity = len(encoding.user_activity)
    return (
        Part(names.USER_HISTORY, "item_ids", "history_index", None),
        Part(names.USER_HISTORY, "counts", "history_count", None),
        Part(names.USER_HISTORY, "last_ms", "history_age_s", None),
        Part(names.USER_PROFILE, "tokens", "user_tokens", None),
        *(
            Part(names.USER_ACTIVITY if f < num_activity else REQUEST_TIME, name, "user_dense", f)
            for f, name in enumerate(dense)
        ),
        *(
            Part(names.USER_CATEGORY_ACTIVITY, name, "user_category", f)
            for f, name in enumerate(encoding.user_category_activity)
        ),
    )


def shapes_of(encoding: UserEncoding) -> dict[str, tuple[int, ...]]:
    """Give the shapes the tensors must have, batch axis 1."""
    history = (1, encoding.history_length)
    request = {REQUEST_TOKENS: (1, len(encoding.request_keys))} if encoding.request_keys else {}
    return {
        **request,
        "history_index": history,
        "history_count": history,
        "history_age_s": history,
        "user_tokens": (1, encoding.num_tokens),
        "user_dense": (1, len(encoding.dense_names)),
        "user_category": (1, encoding.num_categories, len(encoding.user_category_activity)),
    }


def equal_parts(
    parts: tuple[Part, ...], logged: Tensors, computed: Tensors, *, about_s: float = 0.0
) -> list[bool]:
    """Give which parts are equal to the bit.

    ``about_s``: the moment is known only to that many seconds, which features that move with it
    may differ by.
    """
    equal: list[bool] = []
    for part in parts:
        a, b = part.of(logged), part.of(computed)
        if about_s and part.moves_with_the_moment:
            # A second turns the hour by 7.3e-5; ages are float32, exact to one part in 10^7.
            seconds = part.tensor == "history_age_s" or part.feature.startswith("seconds")
            tolerance = about_s if seconds else about_s * 1e-4
            equal.append(bool(np.allclose(a, b, rtol=1e-6, atol=tolerance)))
        else:
            equal.append(bool(np.array_equal(a, b)))
    return equal


def moment_by_hour(parts: tuple[Part, ...], logged: Tensors, before_ms: int) -> int:
    """Give the latest moment at or before ``before_ms`` with the logged hour of day.

    It is exact to some milliseconds: the sine of an hour is kept as float32.
    """
    place = {part.feature: part for part in parts if part.view == REQUEST_TIME}
    sine = float(place["hour_sin"].of(logged)[0])
    cosine = float(place["hour_cos"].of(logged)[0])
    day_ms = 86_400_000
    logged_ms = math.atan2(sine, cosine) / (2 * math.pi) % 1.0 * day_ms
    ago_ms = (before_ms % day_ms - logged_ms) % day_ms
    if ago_ms > day_ms - 1000:
        ago_ms = 0.0  # rounding made it a moment later
    return before_ms - round(ago_ms)
