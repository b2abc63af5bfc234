"""When a read is sent again, without the sending: for an event loop, and for a simulated one."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.resilience.recent_times import RecentTimes


@dataclass(frozen=True, kw_only=True)
class HedgeConfig:
    """When a second read is sent."""

    quantile: float = 0.95
    """Of the latest times: a read slower than this is hedged."""
    min_delay_s: float = 0.002
    """Never sooner: below it lies what this process itself takes when it is busy."""
    min_reads: int = 50
    """Before so many nothing is known."""
    remembered: int = 500
    budget: float = 0.05
    """Second reads for each first one, on average."""
    burst: float = 5.0
    """Of them at once, after a time without."""


class HedgeRule:
    """Knows what reads took of late, and how many second ones may be sent."""

    def __init__(self, config: HedgeConfig = HedgeConfig()) -> None:
        self._config = config
        self._times = RecentTimes(
            quantile=config.quantile, min_times=config.min_reads, remembered=config.remembered
        )
        self._allowed = config.burst

    @property
    def delay_s(self) -> float | None:
        """After how long a read is sent again; ``None`` while too little is known."""
        usual_s = self._times.usual_s
        return None if usual_s is None else max(self._config.min_delay_s, usual_s)

    def begins(self) -> float | None:
        """A read begins; gives after how long it is to be sent again, ``None``: never."""
        self._allowed = min(self._config.burst, self._allowed + self._config.budget)
        return self.delay_s if self._allowed >= 1.0 else None

    def may_send(self) -> bool:
        """Take a second read from the budget; not where others have used it up."""
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True

    def took(self, seconds: float) -> None:
        """Take in how long a read took."""
        self._times.took(seconds)
