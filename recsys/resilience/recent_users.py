"""Users read of late, kept in the API process for when the feature store does not answer.

Bounded by number and by age; the oldest goes first. Only what the fallbacks look at is kept: the
history and the hashes of the profile's tokens. One belongs to each bundle, whose rows it holds.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recsys.features.batch import Int32s, Int64s, UserFeatures


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPast:
    """What the fallbacks know of a user."""

    history_index: Int32s
    """Rows of the items acted on, least recent first."""
    history_last_ms: Int64s
    """Aligned: event time of the latest action on each."""
    token_hashes: Int64s
    """Of the profile."""

    @classmethod
    def of(cls, features: UserFeatures, row: int) -> UserPast:
        """Take one user of a read."""
        return cls(
            history_index=features.history_index.row(row),  # type: ignore[arg-type]
            history_last_ms=features.history_last_ms.row(row),  # type: ignore[arg-type]
            token_hashes=features.token_hashes.row(row),  # type: ignore[arg-type]
        )

    def followed_by(self, rows: Int32s, at_ms: int) -> UserPast:
        """Add items acted on since, latest last, as if all were at ``at_ms``."""
        before = ~np.isin(self.history_index, rows)
        return UserPast(
            history_index=np.concatenate([self.history_index[before], rows]),
            history_last_ms=np.concatenate(
                [self.history_last_ms[before], np.full(len(rows), at_ms, dtype=np.int64)]
            ),
            token_hashes=self.token_hashes,
        )

    def with_tokens(self, token_hashes: Sequence[int]) -> UserPast:
        """Add what else is said of the user."""
        if not token_hashes:
            return self
        said = np.array(token_hashes, dtype=np.int64)
        return replace(self, token_hashes=np.concatenate([self.token_hashes, said]))

    def copied(self) -> UserPast:
        """Give the same without holding the arrays of the whole read."""
        return UserPast(
            history_index=self.history_index.copy(),
            history_last_ms=self.history_last_ms.copy(),
            token_hashes=self.token_hashes.copy(),
        )


NO_PAST = UserPast(
    history_index=np.empty(0, dtype=np.int32),
    history_last_ms=np.empty(0, dtype=np.int64),
    token_hashes=np.empty(0, dtype=np.int64),
)


@dataclass(frozen=True, kw_only=True)
class RecentUsersConfig:
    """How many are kept, and how long."""

    max_users: int = 10_000
    """Some 2 kB each with a full history."""
    max_age_s: float = 300.0
    """A longer outage is served from what is popular; what was erased is forgotten by then too."""


class RecentUsers:
    """The latest reads by user. Belongs to one event loop."""

    def __init__(
        self,
        config: RecentUsersConfig = RecentUsersConfig(),
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._clock_s = clock_s
        self._users: OrderedDict[str, tuple[float, UserPast]] = OrderedDict()

    def keep(self, user_id: str, past: UserPast) -> None:
        """Take what was just read of a user; nobody's is taken."""
        self._users.pop(user_id, None)
        if len(past.history_index) == 0 and len(past.token_hashes) == 0:
            return
        self._users[user_id] = self._clock_s(), past.copied()
        while len(self._users) > self._config.max_users:
            self._users.popitem(last=False)

    def find(self, user_id: str) -> UserPast | None:
        """Give what was last read of a user, unless that is too long ago."""
        found = self._users.get(user_id)
        if found is None:
            return None
        read_s, past = found
        if self._clock_s() - read_s > self._config.max_age_s:
            del self._users[user_id]
            return None
        return past

    def __len__(self) -> int:
        return len(self._users)
