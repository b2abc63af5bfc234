"""Reading what is known about users: many who are asked about at once, in one read of the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from recsys.bundle.served import ServedBundle
from recsys.clock import Clock
from recsys.data.vocabulary import Vocabulary
from recsys.deadline import Deadline
from recsys.errors import RecsysError, StageError
from recsys.features.batch import Int32s, UserFeatures
from recsys.features.view_record import ViewRecord
from recsys.inference.model import Arrays
from recsys.inference.stage_calls import within
from recsys.models.encode import encode_users
from recsys.resilience.hedge import Hedge
from recsys.resilience.recent_users import UserPast


class UserReader(Protocol):
    """Reads what is known about users from the online store."""

    async def read_users(
        self, user_ids: Sequence[str], *, vocabulary: Vocabulary, now_ms: int
    ) -> UserFeatures:
        """Give the features of many users at ``now_ms``, rows in order, unknown users included."""

    async def read_profile(
        self, user_id: str, *, vocabulary: Vocabulary, now_ms: int
    ) -> dict[str, ViewRecord]:
        """Give all that is known about a user, by view."""

    async def check_layout(self, namespace: str) -> None:
        """Raise FeatureError unless the store's features are those this reader understands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserContext:
    """One user at one moment: as read, and as the model wants it."""

    arrays: Arrays
    """``signature.user_context`` with a batch axis of 1."""
    features: UserFeatures
    """Of every user of the same read."""
    row: int
    """This user's row of ``features``."""

    @property
    def known(self) -> bool:
        """Whether anything is on record."""
        return bool(self.features.known[self.row])

    @property
    def as_of_ms(self) -> int:
        """The moment the features speak of."""
        return int(self.features.as_of_ms[self.row])

    @property
    def history_index(self) -> Int32s:
        """Rows of the items acted on, least recent first."""
        return self.features.history_index.row(self.row)  # type: ignore[return-value]

    @property
    def past(self) -> UserPast:
        """What the fallbacks look at."""
        return UserPast.of(self.features, self.row)


@dataclass(frozen=True, slots=True)
class UserRead:
    """One caller's question."""

    user_id: str
    deadline: Deadline


def user_reader(
    bundle: ServedBundle, users: UserReader, clock: Clock, hedge: Hedge
) -> Callable[[Sequence[UserRead]], Awaitable[list[UserContext]]]:
    """Give what reads and encodes many users at once, for ``bundle``."""

    async def read(reads: Sequence[UserRead]) -> list[UserContext]:
        user_ids = [read.user_id for read in reads]
        # Nobody waits longer; a read that goes on would keep its place from those who come next.
        deadline = Deadline.latest(*(read.deadline for read in reads))
        with store_failures():
            features = await within(
                deadline,
                "features",
                hedge.read(
                    lambda: users.read_users(
                        user_ids, vocabulary=bundle.vocabulary, now_ms=clock()
                    ),
                    deadline,
                ),
            )
            encoded = encode_users(features, bundle.encoding)
        return [
            UserContext(
                arrays={name: array[row : row + 1] for name, array in encoded.items()},
                features=features,
                row=row,
            )
            for row in range(len(user_ids))
        ]

    return read


@contextmanager
def store_failures() -> Iterator[None]:
    """Call whatever goes wrong in the feature store a failure of the stage."""
    try:
        yield
    except StageError:
        raise
    except (RecsysError, OSError) as error:
        raise StageError(f"features: {error}", stage="features") from error
