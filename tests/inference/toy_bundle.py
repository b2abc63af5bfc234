"""A served bundle around ``ToyModel``, and users whose history is read from a log in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from recsys.bundle.item_embeddings import ItemEmbeddings
from recsys.bundle.item_tags import ItemTags
from recsys.bundle.served import ServedBundle
from recsys.clock import HOUR_MS
from recsys.data.vocabulary import Vocabulary
from recsys.errors import FeatureError
from recsys.events.codec import decode
from recsys.events.memory import MemoryEventLog
from recsys.events.schema import InteractionEvent, UserEvent
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features.batch import Ragged, UserFeatures
from recsys.features.request_time import REQUEST_TIME_FEATURES
from recsys.features.view_record import Status, ViewRecord
from recsys.models.encode import UserEncoding
from recsys.models.signature import Dimensions

ACTIVITY = ("clicks_1h", "clicks_1d")
CATEGORY_ACTIVITY = ("clicks_1d", "clicks_7d")
BORN_MS = 1_767_225_600_000
CATEGORIES = ("books", "mugs", "tea")
ENCODING = UserEncoding(
    history_length=8,
    num_tokens=4,
    user_activity=ACTIVITY,
    num_categories=len(CATEGORIES),
    user_category_activity=CATEGORY_ACTIVITY,
)
BUNDLE_DIMENSIONS = Dimensions(
    history_length=ENCODING.history_length,
    num_tokens=ENCODING.num_tokens,
    num_user_features=len(ACTIVITY) + len(REQUEST_TIME_FEATURES) + 1,
    num_categories=len(CATEGORIES),
    num_category_features=len(CATEGORY_ACTIVITY),
    num_item_features=2,
    objectives=("click", "purchase"),
    sources=("two_tower", "popular"),
)


def toy_bundle(bundle_id: str = "toy", *, num_items: int = 40, withdrawn: int = 0) -> ServedBundle:
    """Items ``item-1 … item-N``; row ``i`` is in category ``i % 3`` and was born ``i`` hours after
    ``BORN_MS``; the last are withdrawn."""
    rows = np.arange(num_items + 1)
    available = (rows > 0) & (rows <= num_items - withdrawn)
    popular = rows[1:].astype(np.int32)
    return ServedBundle(
        bundle_id=bundle_id,
        dimensions=BUNDLE_DIMENSIONS,
        vocabulary=Vocabulary(
            item_ids=tuple(f"item-{row}" for row in rows[1:]), categories=CATEGORIES
        ),
        title=["", *(f"Item {row}" for row in rows[1:])],
        category_index=np.where(rows > 0, rows % 3, -1).astype(np.int32),
        available=available,
        popular_index=popular,
        popular_score=(1.0 / popular).astype(np.float32),
        encoding=ENCODING,
        born_ms=np.where(rows > 0, BORN_MS + rows * HOUR_MS, 0).astype(np.int64),
        embeddings=ItemEmbeddings({"vectors": _vectors(num_items)}),
        tags=ItemTags.of(pl.Series([_tags(row) for row in rows[1:].tolist()])),
    )


def _tags(row: int) -> list[str]:
    return [f"category={CATEGORIES[row % 3]}", *(["even=true"] if row % 2 == 0 else [])]


def _vectors(num_items: int) -> np.ndarray:
    """Give random vectors of length 8, the same each time."""
    return np.random.default_rng(5).normal(size=(num_items + 1, 8)).astype(np.float32)


class UsersOfLog:
    """See ``UserReader``: what a user's events in the log say, read anew each time."""

    def __init__(self, log: MemoryEventLog, topics: Topics) -> None:
        self._reader = log.reader(topics=[topics.behaviour], group="users")
        self._events: dict[str, list[InteractionEvent]] = {}
        self._profiles: dict[str, UserEvent] = {}
        self.failure: Exception | None = None
        self.layout = "toy"
        """Of the features in the store; this reader understands ``toy``."""
        self.num_reads = 0
        self.num_checks = 0

    async def read_users(
        self, user_ids: Sequence[str], *, vocabulary: Vocabulary, now_ms: int
    ) -> UserFeatures:
        self.num_reads += 1
        self._take_in()
        histories = [self._history(user_id, vocabulary, now_ms) for user_id in user_ids]
        tokens = [
            names.token_hashes(names.tokens_of(self._profiles[user_id].attributes))
            if user_id in self._profiles
            else np.empty(0, np.int64)
            for user_id in user_ids
        ]
        return self._features(histories, tokens, now_ms)

    async def read_profile(
        self, user_id: str, *, vocabulary: Vocabulary, now_ms: int
    ) -> dict[str, ViewRecord]:
        self._take_in()
        event = self._profiles.get(user_id)
        if event is None:
            record = ViewRecord(status=Status.MISSING, event_time_ms=None, age_ms=None, values={})
        else:
            record = ViewRecord(
                status=Status.PRESENT,
                event_time_ms=event.event_time_ms,
                age_ms=now_ms - event.event_time_ms,
                values={"tokens": names.tokens_of(event.attributes)},
            )
        return {names.USER_PROFILE: record}

    async def check_layout(self, namespace: str) -> None:
        self.num_checks += 1
        if self.failure is not None:
            raise self.failure
        if self.layout != "toy":
            raise FeatureError(f"wanted layout toy, found {self.layout}; run `recsys train`")

    def _take_in(self) -> None:
        if self.failure is not None:
            raise self.failure
        while records := self._reader.poll(timeout_ms=0, max_records=1000):
            for record in records:
                event = decode(record.value)
                if isinstance(event, InteractionEvent):
                    self._events.setdefault(event.user_id, []).append(event)
                elif isinstance(event, UserEvent):
                    self._profiles[event.user_id] = event

    @staticmethod
    def _features(
        histories: list[list[tuple[int, int, int]]], tokens: list[np.ndarray], now_ms: int
    ) -> UserFeatures:
        offsets = np.cumsum([0, *(len(history) for history in histories)])
        flat = [entry for history in histories for entry in history]
        activity = [[min(1, len(history)), len(history)] for history in histories]
        num_users = len(histories)
        category_activity = np.zeros((num_users, len(CATEGORIES), 2), dtype=np.float32)
        for user, history in enumerate(histories):
            for row, _, _ in history:
                category_activity[user, row % 3] += 1
        return UserFeatures(
            as_of_ms=np.full(num_users, now_ms, dtype=np.int64),
            known=np.array([bool(history) for history in histories]),
            token_hashes=Ragged(
                np.concatenate(tokens), np.cumsum([0, *(len(some) for some in tokens)])
            ),
            activity=np.array(activity, dtype=np.float32),
            history_index=Ragged(np.array([row for row, _, _ in flat], np.int32), offsets),
            history_count=Ragged(np.array([count for _, count, _ in flat], np.float32), offsets),
            history_last_ms=Ragged(np.array([last for _, _, last in flat], np.int64), offsets),
            category_activity=category_activity,
        )

    def _history(
        self, user_id: str, vocabulary: Vocabulary, now_ms: int
    ) -> list[tuple[int, int, int]]:
        found: dict[int, tuple[int, int]] = {}
        for event in self._events.get(user_id, []):
            row = vocabulary.index_of.get(event.item_id, 0)
            if row and event.event_time_ms <= now_ms:
                count, last_ms = found.get(row, (0, 0))
                found[row] = (count + 1, max(last_ms, event.event_time_ms))
        entries = [(row, count, last_ms) for row, (count, last_ms) in found.items()]
        return sorted(entries, key=lambda entry: entry[2])
