"""User features to the tensors of ``signature.user_context``: NumPy only, no torch.

The API process runs this before a request travels to the model server, and training runs it on the
point-in-time join, so both models see the same numbers. Values stay raw; models normalise.

Axes: ``B`` users, ``H`` history places, ``T`` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import FeatureError
from recsys.features.batch import Float32s, Int64s, Ragged, UserFeatures
from recsys.features.request_time import REQUEST_TIME_FEATURES, request_time

KNOWN_FEATURE = "is_known"


@dataclass(frozen=True, kw_only=True)
class UserEncoding:
    """How a bundle wants its users; part of the manifest."""

    history_length: int
    """H: the most recent distinct items sent; older ones are left out."""
    num_tokens: int
    """T: profile tokens sent; further ones are left out."""
    user_activity: tuple[str, ...]
    """Columns of view ``user_activity``, in the plan's order."""
    num_categories: int
    """G."""
    user_category_activity: tuple[str, ...]
    """Columns of view ``user_category_activity``, in the plan's order."""
    request_keys: tuple[str, ...] = ()
    """R keys of a request's context that the ranker looks at (``request_tokens.py``)."""

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Columns of ``user_dense``: activity, request time, whether the user is known."""
        return (*self.user_activity, *REQUEST_TIME_FEATURES, KNOWN_FEATURE)


def encode_users(users: UserFeatures, encoding: UserEncoding) -> dict[str, NDArray[np.generic]]:
    """Give the tensors of ``signature.user_context``, batch axis first.

    A history longer than H keeps its latest items; padding (0) is on the left, so the newest item
    is always in the last place. An unknown user gives padding and zeros.

    Raises:
        FeatureError: when the features have other columns than the bundle was trained on.
    """
    num_users = len(users)
    wanted = (num_users, len(encoding.user_activity))
    if users.activity.shape != wanted:
        raise FeatureError(
            f"user_activity has shape {users.activity.shape}, the bundle wants {wanted}; the "
            "feature plan has changed: train a bundle on it, or activate one that fits"
        )
    wanted_category = (num_users, encoding.num_categories, len(encoding.user_category_activity))
    if users.category_activity.shape != wanted_category:
        raise FeatureError(
            f"user_category_activity has shape {users.category_activity.shape}, the bundle wants "
            f"{wanted_category}; train a bundle on this plan, or activate one that fits"
        )
    owner, place, kept = _right_aligned(users.history_index.offsets, encoding.history_length)
    shape = (num_users, encoding.history_length)
    index = np.zeros(shape, dtype=np.int32)
    count = np.zeros(shape, dtype=np.float32)
    age_s = np.zeros(shape, dtype=np.float32)
    index[owner, place] = users.history_index.values[kept]
    count[owner, place] = users.history_count.values[kept]
    last_ms = users.history_last_ms.values[kept].astype(np.int64)
    age_s[owner, place] = np.maximum(users.as_of_ms[owner] - last_ms, 0) / 1000.0
    return {
        "history_index": index,
        "history_count": count,
        "history_age_s": age_s,
        "user_tokens": _tokens(users.token_hashes, encoding.num_tokens),
        "user_dense": _dense(users),
        "user_category": users.category_activity.astype(np.float32, copy=False),
    }


def _right_aligned(offsets: Int64s, width: int) -> tuple[Int64s, Int64s, Int64s]:
    """Give row, column and source position of the last ``width`` entries of each ragged row."""
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, width)
    owner = np.repeat(np.arange(len(lengths)), kept)
    ends = np.cumsum(kept)
    from_end = np.repeat(ends, kept) - np.arange(int(ends[-1]) if len(ends) else 0)
    return owner, width - from_end, offsets[1:][owner] - from_end


def _tokens(hashes: Ragged, width: int) -> NDArray[np.int64]:
    lengths = np.minimum(np.diff(hashes.offsets), width)
    tokens = np.zeros((len(hashes), width), dtype=np.int64)
    owner = np.repeat(np.arange(len(hashes)), lengths)
    place = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens[owner, place] = hashes.values[hashes.offsets[:-1][owner] + place]
    return tokens


def _dense(users: UserFeatures) -> Float32s:
    lengths = np.diff(users.history_last_ms.offsets)
    last_ms = np.full(len(users), -1, dtype=np.int64)
    filled = lengths > 0
    last_ms[filled] = users.history_last_ms.values[users.history_last_ms.offsets[1:][filled] - 1]
    moment = request_time(users.as_of_ms, last_ms)
    return np.concatenate(
        [users.activity, moment, users.known[:, None].astype(np.float32)], axis=1
    ).astype(np.float32, copy=False)
