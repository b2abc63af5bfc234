"""How long the ranker of a model takes, so that it is left out where there is no time for it.

An average that follows what was measured, for each power of two of users in a batch. Whatever was
left out is not measured, so the average sinks a little with each refusal and the ranker is tried
again by itself: after one slow moment, and again and again while it stays slow.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RankTimeConfig:
    """How the average follows."""

    weight: float = 0.1
    """Of the latest time in the average."""
    forgiven: float = 0.02
    """Share by which each refusal lowers it: twice too slow is tried after 35 refusals."""
    margin: float = 1.5
    """Times the average must fit: half of the times lie above it."""
    reply_s: float = 0.001
    """Kept for the answer's way back."""


class RankTime:
    """What the ranker took of late. For one thread."""

    def __init__(self, config: RankTimeConfig = RankTimeConfig()) -> None:
        self._config = config
        self._average_s: dict[int, float] = {}

    def fits(self, num_users: int, left_s: float) -> bool:
        """Say whether ranking so many users can be expected to end in ``left_s`` seconds.

        A size that was never measured is tried as long as any time is left.
        """
        left_s -= self._config.reply_s
        size = num_users.bit_length()
        average_s = self._average_s.get(size, 0.0)
        if left_s > 0 and self._config.margin * average_s <= left_s:
            return True
        if left_s > 0:
            self._average_s[size] = average_s * (1.0 - self._config.forgiven)
        return False

    def took(self, num_users: int, seconds: float) -> None:
        """Take in a measured time."""
        size = num_users.bit_length()
        before_s = self._average_s.get(size)
        self._average_s[size] = (
            seconds if before_s is None else before_s + self._config.weight * (seconds - before_s)
        )
