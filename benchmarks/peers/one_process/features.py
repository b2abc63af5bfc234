"""Features by ``store.get_online_features``: of a user, of the user in each category, of items."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
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

    def users(self, user_ids: Sequence[str]) -> UserFeatures:
        """Read ``B`` users, alone and with each category: two calls, as the keys differ."""
        count, now_ms = len(user_ids), time.time_ns() // 1_000_000
        rows = self._read(self._user_features, {"user_id": list(user_ids)})
        categories = self._known_categories
        pairs = self._read(
            self._pair_features,
            {
                "user_id": [user_id for user_id in user_ids for _ in categories],
                "category": categories * count,
            },
        )
        shape = (count, len(self._vocabulary.categories), len(self._category_activity))
        by_category = np.zeros(shape, np.float32)
        columns = [self._vocabulary.category_index_of[c] for c in categories]
        by_category[:, columns] = _columns(
            pairs, [f"user_category_activity__{name}" for name in self._category_activity]
        ).reshape(count, len(categories), -1)
        history = [self._history(rows, place) for place in range(count)]
        found = [values for name, values in rows.items() if "__" in name]
        return UserFeatures(
            as_of_ms=np.full(count, now_ms),
            known=np.array([any(v[place] is not None for v in found) for place in range(count)]),
            token_hashes=_ragged(
                [token_hashes(tokens or []) for tokens in rows["user_profile__tokens"]]
            ),
            activity=_columns(rows, [f"user_activity__{name}" for name in self._activity]),
            history_index=_ragged([index for index, _, _ in history]),
            history_count=_ragged([counts for _, counts, _ in history]),
            history_last_ms=_ragged([last_ms for _, _, last_ms in history]),
            category_activity=by_category,
        )

    def items(self, item_ids: list[str]) -> Float32s:
        """Read the moving features of candidates, ``[C, Fi]``."""
        found = self._read(self._item_features, {"item_id": item_ids})
        return _columns(found, [f"item_activity__{name}" for name in self._item_activity])

    def _history(
        self, rows: dict[str, list[Any]], place: int
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Give known items' indexes, counts and last moments of the user at ``place``."""
        index = self._vocabulary.indexes(rows["user_history__item_ids"][place] or [])
        kept = index > 0
        counts = np.array(rows["user_history__counts"][place] or [], np.float32)
        last_ms = np.array(rows["user_history__last_ms"][place] or [], np.int64)
        return index[kept], counts[kept], last_ms[kept]

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


def _ragged(rows: Sequence[NDArray[Any]]) -> Ragged:
    ends = np.cumsum([len(row) for row in rows])
    return Ragged(np.concatenate(rows), np.concatenate([[0], ends]))
