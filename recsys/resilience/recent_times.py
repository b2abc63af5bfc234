"""What calls took of late, by a quantile: how long is longer than usual."""

from __future__ import annotations

from collections import deque


class RecentTimes:
    """Remembers the latest times of one kind of call."""

    def __init__(self, *, quantile: float, min_times: int, remembered: int) -> None:
        """``min_times``: before so many nothing is known; looked at anew after as many more."""
        self._quantile = quantile
        self._min_times = min_times
        self._times_s: deque[float] = deque(maxlen=remembered)
        self._num_times = 0
        self._usual_s: float | None = None

    @property
    def usual_s(self) -> float | None:
        """The quantile, as it was at most ``min_times`` calls ago; ``None``: too few are known."""
        return self._usual_s

    def took(self, seconds: float) -> None:
        """Take in how long a call took."""
        self._times_s.append(seconds)
        self._num_times += 1
        if self._num_times % self._min_times == 0:
            ordered = sorted(self._times_s)
            self._usual_s = ordered[int(self._quantile * (len(ordered) - 1))]
