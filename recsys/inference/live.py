"""A bundle in service: its names, its model and the queues that put concurrent requests together.

Requests that run at the same time share one read of the feature store and one call of the model.
Both queues belong to one bundle, so a batch never mixes two.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.clock import Clock
from recsys.deadline import Deadline
from recsys.errors import FeatureError, FeatureLayoutError
from recsys.features import names
from recsys.features.batch import Int32s
from recsys.features.view_record import ViewRecord
from recsys.inference.batching import AdaptiveBatcher, BatchingConfig
from recsys.inference.created_keys import to_keys, to_rows
from recsys.inference.model import Array, Arrays, Model
from recsys.inference.model_calls import ModelCall, together
from recsys.inference.stage_calls import guarded, within
from recsys.inference.user_reading import (
    UserContext,
    UserRead,
    UserReader,
    store_failures,
    user_reader,
)
from recsys.models.filter_tokens import ALL_PASS, ItemFilter
from recsys.models.request_tokens import REQUEST_TOKENS, request_tokens
from recsys.models.signature import CREATED_KEYS
from recsys.ranking.ranked import RankedItems
from recsys.resilience.breaker import BreakerConfig, CircuitBreaker
from recsys.resilience.hedge import Hedge
from recsys.resilience.recent_users import RecentUsers
from recsys.stage_times import stage

logger = logging.getLogger(__name__)

READING = BatchingConfig(max_in_flight=2)
"""Of the feature store: one slow answer does not hold up everybody."""
COMPUTING = BatchingConfig(max_in_flight=1)
"""Of the model, which computes one batch at a time."""
MODEL_BREAKER = BreakerConfig(failures_in_a_row=2)
"""The model computes one batch at a time, so each one that hangs holds up everybody behind it."""
STORE_BREAKER = BreakerConfig(min_silence_s=0.1)
"""The feature store answers in milliseconds, and has two fifths of a deadline at most."""
_NOTHING = np.zeros((1, 1), dtype=np.int32)
_NO_FILTERS = ALL_PASS.pairs()[np.newaxis]
NO_CONTEXT: Mapping[str, str] = MappingProxyType({})


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
        self._store_breaker = store_breaker or CircuitBreaker("redis", STORE_BREAKER)
        self._model_breaker = CircuitBreaker("triton", MODEL_BREAKER)
        # Nothing here refers back to this object, so it ends with the last request that holds it.
        self._read_batch: AdaptiveBatcher[UserRead, UserContext] = AdaptiveBatcher(
            guarded(
                user_reader(bundle, users, clock, hedge or Hedge()), self._store_breaker, "features"
            ),
            reading,
            breaker=self._store_breaker,
            stage="features",
        )
        self._recommend_batch: AdaptiveBatcher[ModelCall, Arrays] = AdaptiveBatcher(
            guarded(together("recommend", model.recommend), self._model_breaker, "recommend"),
            computing,
            breaker=self._model_breaker,
            stage="recommend",
        )
        self._rank_batch: AdaptiveBatcher[ModelCall, Arrays] = AdaptiveBatcher(
            guarded(together("rank", model.rank), self._model_breaker, "rank"),
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
            user = await within(deadline, "features", self._read_batch(UserRead(user_id, deadline)))
        self.recent_users.keep(user_id, user.past)
        if keys := self.bundle.encoding.request_keys:
            said = {REQUEST_TOKENS: request_tokens([context], keys)}
            user = replace(user, arrays={**user.arrays, **said})
        return user

    async def profile(self, user_id: str, deadline: Deadline) -> ViewRecord:
        """Give what user events say about a user: the ``tokens`` of ``user_profile``."""
        self._require_layout()
        with store_failures():
            records = await within(
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
            call = self._recommend_batch(ModelCall(self._named(inputs), deadline))
            outputs = await within(deadline, "recommend", call)
        return RankedItems.of(self._rows(outputs, "item_index"), outputs).first(k)

    async def rank(
        self, user: UserContext, candidate_index: Int32s, *, deadline: Deadline
    ) -> RankedItems:
        """Score given items and put them in order."""
        inputs = {**user.arrays, "candidate_index": candidate_index[np.newaxis]}
        self._model_breaker.require("rank")
        with stage("rank"):
            call = self._rank_batch(ModelCall(self._named(inputs), deadline))
            outputs = await within(deadline, "rank", call)
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
            outputs = await within(deadline, "similar", call)
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
