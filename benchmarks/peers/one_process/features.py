"""Features by ``store.get_online_features``: of a user, of the user in each category, of items."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Float32s, Ragged, UserFeatures
from recsys.features.names import token_hashes
from recsys.features.plan import Plan

Layout = Literal["feast", "plugin"]
"""``feast``: values as Feast's own Redis store keeps and reads them; ``plugin``: our store behind
the same call, on the state that our stream worker writes."""


def open_store(config: Path) -> Any:
    """Give the ``FeatureStore`` of a ``feature_store.yaml``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import feast
        from feast.repo_config import load_repo_config

        return feast.FeatureStore(config=load_repo_config(config.parent, config))


class Features:
    """Reads what one request needs. Thread-safe, as Feast's store is."""

    def __init__(self, store: Any, plan: Plan, vocabulary: Vocabulary) -> None:
        self._store = store
        self._vocabulary = vocabulary
        self._activity = plan.user_activity_names
        self._category_activity = plan.user_category_activity_names
        self._item_activity = plan.item_activity_names
        self._user_features = [
            "user_profile:tokens",
            *(f"user_activity:{name}" for name in self._activity),
            *(f"user_history:{name}" for name in ("item_ids", "counts", "last_ms")),
        ]
        self._pair_features = [f"user_category_activity:{name}" for name in self._category_activity]
        self._item_features = [f"item_activity:{name}" for name in self._item_activity]
        self._known_categories = [c for c in vocabulary.categories if c]

    def user(self, user_id: str) -> UserFeatures:
        """Read a user, alone and with each category: two calls, as the keys differ."""
        now_ms = time.time_ns() // 1_000_000
        row = self._read(self._user_features, {"user_id": [user_id]})
        categories = self._known_categories
        pairs = self._read(
            self._pair_features,
            {"user_id": [user_id] * len(categories), "category": categories},
        )
        by_category = np.zeros(
            (1, len(self._vocabulary.categories), len(self._category_activity)), np.float32
        )
        columns = [self._vocabulary.category_index_of[c] for c in categories]
        by_category[0, columns] = _columns(
            pairs, [f"user_category_activity__{name}" for name in self._category_activity]
        )
        items = row["user_history__item_ids"][0] or []
        index = self._vocabulary.indexes(items)
        kept = index > 0
        counts = np.array(row["user_history__counts"][0] or [], np.float32)[kept]
        last_ms = np.array(row["user_history__last_ms"][0] or [], np.int64)[kept]
        tokens = row["user_profile__tokens"][0] or []
        activity = _columns(row, [f"user_activity__{name}" for name in self._activity])
        known = any(values[0] is not None for name, values in row.items() if "__" in name)
        return UserFeatures(
            as_of_ms=np.array([now_ms]),
            known=np.array([known]),
            token_hashes=_ragged(token_hashes(tokens)),
            activity=activity,
            history_index=_ragged(index[kept]),
            history_count=_ragged(counts),
            history_last_ms=_ragged(last_ms),
            category_activity=by_category,
        )

    def items(self, item_ids: list[str]) -> Float32s:
        """Read the moving features of candidates, ``[C, Fi]``."""
        found = self._read(self._item_features, {"item_id": item_ids})
        return _columns(found, [f"item_activity__{name}" for name in self._item_activity])

    def _read(self, features: list[str], entities: dict[str, list[str]]) -> dict[str, list[Any]]:
        answer = self._store.get_online_features(
            features=features, entity_rows=_rows(entities), full_feature_names=True
        )
        return answer.to_dict()  # type: ignore[no-any-return]


def _rows(entities: dict[str, list[str]]) -> list[dict[str, str]]:
    names = list(entities)
    return [
        dict(zip(names, values, strict=True)) for values in zip(*entities.values(), strict=True)
    ]


def _columns(found: dict[str, list[Any]], names: list[str]) -> Float32s:
    """Give columns as ``[rows, features]``; what is missing is 0."""
    values = np.array([found[name] for name in names], dtype=np.float32).T
    return np.nan_to_num(values, copy=False, nan=0.0)


def _ragged(values: NDArray[Any]) -> Ragged:
    return Ragged(values, np.array([0, len(values)]))
