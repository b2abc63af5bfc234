"""When a read is sent again: the rule of ``recsys/resilience/hedge.py``, without asyncio."""

from __future__ import annotations

from collections import deque

from recsys.resilience.hedge import HedgeConfig

_USUAL = HedgeConfig()


class Hedging:
    """Knows what reads took of late, and how many second ones may be sent."""

    def __init__(self, config: HedgeConfig = _USUAL) -> None:
        self._config = config
        self._times_s: deque[float] = deque(maxlen=config.remembered)
        self._num_reads = 0
        self._allowed = config.burst
        self._delay_s = config.min_delay_s

    def begins(self) -> float | None:
        """A read begins; gives after how long it is to be sent again, ``None``: never."""
        config = self._config
        self._allowed = min(config.burst, self._allowed + config.budget)
        if len(self._times_s) < config.min_reads or self._allowed < 1.0:
            return None
        return self._delay_s

    def may_send(self) -> bool:
        """Take a second read from the budget, if one is left."""
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True

    def took(self, seconds: float) -> None:
        """Take in how long a read took."""
        self._times_s.append(seconds)
        self._num_reads += 1
        if self._num_reads % self._config.min_reads == 0:
            ordered = sorted(self._times_s)
            place = int(self._config.quantile * (len(ordered) - 1))
            self._delay_s = max(self._config.min_delay_s, ordered[place])
