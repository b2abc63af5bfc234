"""A bundle in service: its names, its model and the queues that put concurrent requests together.

Requests that run at the same time share one read of the feature store and one call of the model.
Both queues belong to one bundle, so a batch never mixes two.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from types import MappingProxyType
from typing import Protocol, TypeVar

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.clock import Clock
from recsys.data.vocabulary import Vocabulary
from recsys.deadline import Deadline
from recsys.errors import (
    DeadlineExceededError,
    FeatureError,
    FeatureLayoutError,
    RecsysError,
    StageError,
)
from recsys.features import names
from recsys.features.batch import Int32s, UserFeatures
from recsys.features.view_record import ViewRecord
from recsys.inference.batching import AdaptiveBatcher, BatchingConfig
from recsys.inference.collate import split_rows, stack_arrays
from recsys.inference.created_keys import to_keys, to_rows
from recsys.inference.model import Array, Arrays, Model
from recsys.models.encode import encode_users
from recsys.models.filter_tokens import ALL_PASS, ItemFilter
from recsys.models.request_tokens import REQUEST_TOKENS, request_tokens
from recsys.models.signature import CREATED_KEYS
from recsys.ranking.ranked import RankedItems
from recsys.resilience.breaker import BreakerConfig, CircuitBreaker
from recsys.resilience.hedge import Hedge
from recsys.resilience.recent_users import RecentUsers, UserPast
from recsys.stage_times import stage
from recsys.telemetry import MODEL_CALL_USERS

logger = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")
READING = BatchingConfig(max_in_flight=2)
"""Of the feature store: one slow answer does not hold up everybody."""
COMPUTING = BatchingConfig(max_in_flight=1)
"""Of the model, which computes one batch at a time."""
MODEL_BREAKER = BreakerConfig(failures_in_a_row=2)
"""The model computes one batch at a time, so each one that hangs holds up everybody behind it."""
_NOTHING = np.zeros((1, 1), dtype=np.int32)
_NO_KEYS = np.zeros((1, 1), dtype=np.int64)
_NO_FILTERS = ALL_PASS.pairs()[np.newaxis]
NO_CONTEXT: Mapping[str, str] = MappingProxyType({})


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
class _Read:
    user_id: str
    deadline: Deadline


@dataclass(frozen=True, slots=True)
class _ModelCall:
    inputs: dict[str, Array]
    deadline: Deadline


class LiveBundle:
    """Reads users and runs the model for one bundle. Belongs to one event loop.

    Every method raises DeadlineExceededError when its deadline passes first and StageError when the
    stage cannot answer.
    """

    def __init__(
        self,
        bundle: ServedBundle,
        model: Model,
        users: UserReader,
        *,
        clock: Clock,
        namespace: str,
        items: object = None,
        reading: BatchingConfig = READING,
        computing: BatchingConfig = COMPUTING,
        store_breaker: CircuitBreaker | None = None,
        hedge: Hedge | None = None,
    ) -> None:
        """Put a bundle together with what it is served by.

        ``store_breaker`` and ``hedge`` are those of the feature store, which bundles share;
        ``None``: of its own.
        """
        self.items = items
        """What keeps the bundle's items as the log says; it is followed for as long as we live."""
        self.features_trouble = ""
        """Why the features in the store cannot be read for this bundle, as ``check_features``
        last saw; ``""`` when they can."""
        self.recent_users = RecentUsers()
        self._namespace = namespace
        self.bundle = bundle
        self.model = model
        self._users = users
        self._clock = clock
        self._store_breaker = store_breaker or CircuitBreaker("redis")
        self._model_breaker = CircuitBreaker("triton", MODEL_BREAKER)
        # Nothing here refers back to this object, so it ends with the last request that holds it.
        self._read_batch: AdaptiveBatcher[_Read, UserContext] = AdaptiveBatcher(
            _guarded(
                _reader(bundle, users, clock, hedge or Hedge()), self._store_breaker, "features"
            ),
            reading,
            breaker=self._store_breaker,
            stage="features",
        )
        self._recommend_batch: AdaptiveBatcher[_ModelCall, Arrays] = AdaptiveBatcher(
            _guarded(_together("recommend", model.recommend), self._model_breaker, "recommend"),
            computing,
            breaker=self._model_breaker,
            stage="recommend",
        )
        self._rank_batch: AdaptiveBatcher[_ModelCall, Arrays] = AdaptiveBatcher(
            _guarded(_together("rank", model.rank), self._model_breaker, "rank"),
            computing,
            breaker=self._model_breaker,
            stage="rank",
        )

    async def check_features(self) -> None:
        """See whether the store holds the features this bundle reads.

        While it does not, ``user`` and ``profile`` raise FeatureLayoutError: a store of another
        layout reads as if nobody were known. Not for every request: one read of the store.

        Raises:
            ServerError: when the store does not answer; then all stays as it was last seen.
        """
        try:
            await self._users.check_layout(self._namespace)
            trouble = ""
        except FeatureError as error:
            trouble = str(error)
        if trouble and trouble != self.features_trouble:
            logger.warning("bundle %s serves without features: %s", self.bundle.bundle_id, trouble)
        elif self.features_trouble and not trouble:
            logger.info("bundle %s reads the store's features again", self.bundle.bundle_id)
        self.features_trouble = trouble

    @property
    def is_model_away(self) -> bool:
        """Whether the model has not answered of late."""
        return self._model_breaker.state != "closed"

    def ask_model_again(self) -> None:
        """Let the next request find out whether the model is back."""
        self._model_breaker.ask_again()

    async def user(
        self, user_id: str, deadline: Deadline, context: Mapping[str, str] = NO_CONTEXT
    ) -> UserContext:
        """Give what is known about a user now, and what the bundle looks at of the request."""
        self._require_layout()
        self._store_breaker.require("features")
        with stage("features"):
            user = await _within(deadline, "features", self._read_batch(_Read(user_id, deadline)))
        self.recent_users.keep(user_id, user.past)
        if keys := self.bundle.encoding.request_keys:
            said = {REQUEST_TOKENS: request_tokens([context], keys)}
            user = replace(user, arrays={**user.arrays, **said})
        return user

    async def profile(self, user_id: str, deadline: Deadline) -> ViewRecord:
        """Give what user events say about a user: the ``tokens`` of ``user_profile``."""
        self._require_layout()
        with _reading():
            records = await _within(
                deadline,
                "features",
                self._users.read_profile(
                    user_id, vocabulary=self.bundle.vocabulary, now_ms=self._clock()
                ),
            )
        return records[names.USER_PROFILE]

    async def recommend(
        self,
        user: UserContext,
        *,
        excluded: Int32s,
        exclude_history: bool,
        k: int,
        deadline: Deadline,
        item_filter: ItemFilter = ALL_PASS,
    ) -> RankedItems:
        """Retrieve and rank: the best ``k`` of the items that pass, best first, none excluded."""
        inputs = {
            **user.arrays,
            "exclude_index": excluded[np.newaxis] if len(excluded) else _NOTHING,
            "filters": item_filter.pairs()[np.newaxis] if item_filter else _NO_FILTERS,
            "exclude_history": np.array([[exclude_history]]),
            "k": np.array([[k]], dtype=np.int32),
        }
        self._model_breaker.require("recommend")
        with stage("recommend"):
            call = self._recommend_batch(_ModelCall(self._named(inputs), deadline))
            outputs = await _within(deadline, "recommend", call)
        return RankedItems.of(self._rows(outputs, "item_index"), outputs).first(k)

    async def rank(
        self, user: UserContext, candidate_index: Int32s, *, deadline: Deadline
    ) -> RankedItems:
        """Score given items and put them in order."""
        inputs = {**user.arrays, "candidate_index": candidate_index[np.newaxis]}
        self._model_breaker.require("rank")
        with stage("rank"):
            call = self._rank_batch(_ModelCall(self._named(inputs), deadline))
            outputs = await _within(deadline, "rank", call)
        num_candidates = len(candidate_index)
        outputs = {
            name: values if name == "item_age_ms" else values[:, :num_candidates]
            for name, values in outputs.items()
        }
        return RankedItems.of(candidate_index, outputs).by_score()

    async def similar(self, row: int, *, k: int, deadline: Deadline) -> tuple[Int32s, Array]:
        """Give the rows and cosines of the ``k`` nearest other items."""
        inputs = {
            "item_index": np.array([[row]], dtype=np.int32),
            "k": np.array([[k]], dtype=np.int32),
        }
        with stage("similar"):
            call = self.model.similar(self._named(inputs), deadline)
            outputs = await _within(deadline, "similar", call)
        found = self._rows(outputs, "similar_index")
        return found[found != 0], outputs["score"][0][found != 0]

    def _named(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Give a call's inputs as they travel, created items by key."""
        created = self.bundle.created
        return to_keys(inputs, created) if len(created) else inputs

    def _rows(self, outputs: Arrays, name: str) -> Int32s:
        """Give the rows of an answer; 0 for an item this process has not heard of yet."""
        index = outputs[name][:1]
        if CREATED_KEYS in outputs:
            index = to_rows(index, outputs[CREATED_KEYS][:1], self.bundle.created)
        rows: Int32s = index[0]
        return rows

    def _require_layout(self) -> None:
        if self.features_trouble:
            raise FeatureLayoutError(f"features: {self.features_trouble}", stage="features")


def _guarded(
    run: Callable[[Sequence[T]], Awaitable[Sequence[U]]], breaker: CircuitBreaker, stage: str
) -> Callable[[Sequence[T]], Awaitable[Sequence[U]]]:
    """Tell ``breaker`` what becomes of each batch."""

    async def run_guarded(calls: Sequence[T]) -> Sequence[U]:
        start_s = perf_counter()
        try:
            answers = await run(calls)
        except StageError as error:
            breaker.failed(error, waited_s=perf_counter() - start_s)
            raise
        except asyncio.CancelledError:
            # Its only caller has given up, having waited for as long as it could.
            late = DeadlineExceededError(f"{stage}: given up", stage=stage)
            breaker.failed(late, waited_s=perf_counter() - start_s)
            raise
        breaker.answered(waited_s=perf_counter() - start_s)
        return answers

    return run_guarded


def _reader(
    bundle: ServedBundle, users: UserReader, clock: Clock, hedge: Hedge
) -> Callable[[Sequence[_Read]], Awaitable[list[UserContext]]]:
    async def read(reads: Sequence[_Read]) -> list[UserContext]:
        user_ids = [read.user_id for read in reads]
        # Nobody waits longer; a read that goes on would keep its place from those who come next.
        deadline = Deadline.latest(*(read.deadline for read in reads))
        with _reading():
            features = await _within(
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


def _together(
    name: str, run: Callable[[Arrays, Deadline], Awaitable[Arrays]]
) -> Callable[[Sequence[_ModelCall]], Awaitable[Sequence[Arrays]]]:
    num_users = MODEL_CALL_USERS.labels(name)

    async def run_together(calls: Sequence[_ModelCall]) -> Sequence[Arrays]:
        inputs = [
            {**call.inputs, "budget_ms": _budget_ms(call.deadline)}
            if "exclude_index" in call.inputs
            else call.inputs
            for call in calls
        ]
        num_users.observe(len(calls))
        if any(CREATED_KEYS in one for one in inputs):  # the first was heard of in between
            inputs = [{CREATED_KEYS: _NO_KEYS, **one} for one in inputs]
        deadline = Deadline.latest(*(call.deadline for call in calls))
        return list(split_rows(await run(stack_arrays(inputs), deadline), inputs))

    return run_together


def _budget_ms(deadline: Deadline) -> Array:
    """Give the time left as the model server is told: relative, since clocks differ."""
    return np.array([[int(deadline.remaining_s() * 1e3)]], dtype=np.int32)


async def _within(deadline: Deadline, stage: str, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await work
    except TimeoutError as error:
        raise DeadlineExceededError(f"{stage}: no answer in time", stage=stage) from error


@contextmanager
def _reading() -> Iterator[None]:
    """Call whatever goes wrong in the feature store a failure of the stage."""
    try:
        yield
    except StageError:
        raise
    except (RecsysError, OSError) as error:
        raise StageError(f"features: {error}", stage="features") from error
