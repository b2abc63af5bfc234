"""A stage that gave no answer: counted, and said in the answer that did without."""

from __future__ import annotations

from typing import Literal

from recsys.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    FeatureLayoutError,
    OverloadedError,
    StageError,
)
from recsys.telemetry import STAGE_FAILURES

_SAID = {"layout": "failed: the store holds features of another layout than the bundle's"}
"""Reasons that need more words in an answer than in a counter."""


def stage_failed(route: Literal["recommend", "rank"], error: StageError) -> str:
    """Count a stage that gave no answer; give why, for the answer."""
    match error:
        case DeadlineExceededError():
            reason = "late"
        case OverloadedError():
            reason = "overloaded"
        case FeatureLayoutError():
            reason = "layout"
        case CircuitOpenError():
            reason = "away"
        case _:
            reason = "failed"
    STAGE_FAILURES.labels(error.stage, reason).inc()
    said = _SAID.get(reason, reason)
    return f"{route}: stage {error.stage} {said}"
