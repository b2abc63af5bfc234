"""The age of the item features that answers are ranked by: shown, held to a bound, and said."""

from __future__ import annotations

import logging

from recsys.telemetry import ITEM_FEATURES_AGE_SECONDS, ITEM_FEATURES_LATE

logger = logging.getLogger(__name__)


class ItemAge:
    """Watches one API process's answers. Belongs to one event loop."""

    def __init__(self, max_age_ms: int) -> None:
        """``max_age_ms``: answers ranked by older features count as late."""
        self._max_age_ms = max_age_ms
        self._is_late = False

    def seen(self, age_ms: int | None) -> None:
        """Take note of an answer; ``None``: no moving features had a say in it."""
        if age_ms is None:
            return
        ITEM_FEATURES_AGE_SECONDS.set(age_ms / 1e3)
        is_late = age_ms > self._max_age_ms
        if is_late:
            ITEM_FEATURES_LATE.inc()
        if is_late and not self._is_late:
            logger.warning(
                "answers are ranked by old item features: wanted at most %d ms, found %d; see "
                "whether Redis answers and the model server's log says why it is not followed",
                self._max_age_ms, age_ms,
            )  # fmt: skip
        elif self._is_late and not is_late:
            logger.info("item features are in time again: %d ms", age_ms)
        self._is_late = is_late
