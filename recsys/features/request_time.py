"""Features of the moment of a request: pure functions, the same online, offline and inside Feast.

Hours and weekdays are those of UTC: a user's time zone is not in the events.
"""

from __future__ import annotations

import numpy as np

from recsys.clock import DAY_MS
from recsys.features.batch import Float32s, Int64s

REQUEST_TIME_FEATURES = (
    "hour_sin",
    "hour_cos",
    "weekday_sin",
    "weekday_cos",
    "seconds_since_last_interaction",
)
NEVER_S = 10.0 * 365 * 86_400
"""Stands for "no interaction yet" and bounds the feature: ten years in seconds."""


def request_time(as_of_ms: Int64s, last_interaction_ms: Int64s) -> Float32s:
    """Give ``REQUEST_TIME_FEATURES`` of each moment, ``[B, 5]``.

    Args:
        as_of_ms: ``[B]`` moments.
        last_interaction_ms: ``[B]``; -1 (or any negative) when there was none by then.
    """
    day = (as_of_ms % DAY_MS) / DAY_MS
    # 1970-01-01 was a Thursday: three days on, weeks begin on Monday.
    week = ((as_of_ms // DAY_MS + 3) % 7 + day) / 7
    angle = 2 * np.pi * np.array((day, week))
    since = np.where(last_interaction_ms >= 0, (as_of_ms - last_interaction_ms) / 1000, NEVER_S)
    moment = np.empty((len(as_of_ms), len(REQUEST_TIME_FEATURES)), dtype=np.float32)
    moment[:, 0:4:2] = np.sin(angle).T
    moment[:, 1:4:2] = np.cos(angle).T
    moment[:, 4] = np.minimum(np.maximum(since, 0.0), NEVER_S)
    return moment


def one_request_time(as_of_ms: int, last_interaction_ms: int) -> list[float]:
    """Give ``request_time`` of one moment, ``[5]``, without a dozen arrays of one number."""
    day = (as_of_ms % DAY_MS) / DAY_MS
    week = ((as_of_ms // DAY_MS + 3) % 7 + day) / 7
    angle = np.array((2 * np.pi * day, 2 * np.pi * week))
    (hour_sin, weekday_sin), (hour_cos, weekday_cos) = (
        np.sin(angle).tolist(),
        np.cos(angle).tolist(),
    )
    since = (as_of_ms - last_interaction_ms) / 1000 if last_interaction_ms >= 0 else NEVER_S
    return [hour_sin, hour_cos, weekday_sin, weekday_cos, min(max(since, 0.0), NEVER_S)]
