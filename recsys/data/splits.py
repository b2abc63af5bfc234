"""Splits by time, never at random: what is learned lies before what it is judged on.

::

    ───────── towers and neighbours, first fit ─────────┬── ranker's labels ──┬── test ──►
                                                   ranker_from           test_from

The ranker learns how far to trust the sources, so its labels must lie after everything the sources
were fitted on; afterwards the sources are fitted again on all that lies before the test.
"""

from __future__ import annotations

from dataclasses import dataclass

from recsys.clock import DAY_MS
from recsys.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Moments, epoch ms UTC."""

    begin_ms: int
    """First event of the log."""
    ranker_from_ms: int
    test_from_ms: int
    end_ms: int
    """Last event of the log, inclusive."""

    def __post_init__(self) -> None:
        if not self.begin_ms < self.ranker_from_ms < self.test_from_ms:
            raise InputError(
                f"wanted begin < ranker_from < test_from, found {self.begin_ms}, "
                f"{self.ranker_from_ms}, {self.test_from_ms}: the log spans "
                f"{(self.end_ms - self.begin_ms) / DAY_MS:.2f} days before its end at "
                f"{self.end_ms}; give another --test-from, or replay more history"
            )


def split_by_time(
    *, begin_ms: int, end_ms: int, test_from_ms: int | None, test_share: float, ranker_span_ms: int
) -> TimeSplit:
    """Cut a log.

    Args:
        begin_ms: First event.
        end_ms: Last event.
        test_from_ms: First moment of the test period; None: the last ``test_share`` of the span.
        test_share: See above.
        ranker_span_ms: Length of the ranker's part; cut to a third of what lies before the test,
            so that a short log still leaves the sources something to learn from.
    """
    if test_from_ms is None:
        test_from_ms = end_ms - int((end_ms - begin_ms) * test_share)
    span = min(ranker_span_ms, (test_from_ms - begin_ms) // 3)
    return TimeSplit(
        begin_ms=begin_ms,
        ranker_from_ms=test_from_ms - span,
        test_from_ms=test_from_ms,
        end_ms=end_ms,
    )
