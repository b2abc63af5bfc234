"""User features to the tensors of ``signature.user_context``: NumPy only, no torch.

The API process runs this before a request travels to the model server, and training runs it on the
point-in-time join, so both models see the same numbers. Values stay raw; models normalise.

Axes: ``B`` users, ``H`` history places, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recsys.errors import FeatureError
from recsys.features.batch import Float32s, Int64s, Ragged, UserFeatures
from recsys.features.request_time import REQUEST_TIME_FEATURES, one_request_time, request_time

KNOWN_FEATURE = "is_known"
_REQUEST_COLUMNS = len(REQUEST_TIME_FEATURES)
_FEW = 8
"""Users up to which a loop over rows takes less time than indexes of all entries."""


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
    if num_users == 1:
        return _encode_one(users, encoding)
    shape = (num_users, encoding.history_length)
    index = np.zeros(shape, dtype=np.int32)
    count = np.zeros(shape, dtype=np.float32)
    age_s = np.zeros(shape, dtype=np.float32)
    for owner, place, kept in _right_aligned(users.history_index.offsets, encoding.history_length):
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


def _encode_one(users: UserFeatures, encoding: UserEncoding) -> dict[str, NDArray[np.generic]]:
    """Give the tensors of one user: those of ``encode_users``, in a third of the array operations.

    Most requests travel alone, and one operation costs as much as the values of a history.
    """
    width, as_of_ms = encoding.history_length, users.as_of_ms.item()
    index = np.zeros((1, width), dtype=np.int32)
    count = np.zeros((1, width), dtype=np.float32)
    age_s = np.zeros((1, width), dtype=np.float32)
    latest_ms = -1
    if num := min(len(users.history_index.values), width):
        last_ms = users.history_last_ms.values[-num:].tolist()
        latest_ms = last_ms[-1]
        index[0, -num:] = users.history_index.values[-num:]
        count[0, -num:] = users.history_count.values[-num:]
        age_s[0, -num:] = [max(as_of_ms - at_ms, 0) / 1000.0 for at_ms in last_ms]
    tokens = np.zeros((1, encoding.num_tokens), dtype=np.int64)
    if num := min(len(users.token_hashes.values), encoding.num_tokens):
        tokens[0, :num] = users.token_hashes.values[:num]
    dense = np.empty((1, users.activity.shape[1] + _REQUEST_COLUMNS + 1), np.float32)
    dense[:, : -_REQUEST_COLUMNS - 1] = users.activity
    dense[0, -_REQUEST_COLUMNS - 1 : -1] = one_request_time(as_of_ms, latest_ms)
    dense[0, -1] = users.known.item()
    return {
        "history_index": index,
        "history_count": count,
        "history_age_s": age_s,
        "user_tokens": tokens,
        "user_dense": dense,
        "user_category": users.category_activity.astype(np.float32, copy=False),
    }


_Places = tuple[Int64s | int, Int64s | slice, Int64s | slice]
"""Row, columns, and positions in the source."""


def _right_aligned(offsets: Int64s, width: int) -> Iterable[_Places]:
    """Give where the last ``width`` entries of each ragged row go: of all rows, or of each."""
    if len(offsets) - 1 <= _FEW:
        return [
            (
                row,
                slice(width - min(end - begin, width), width),
                slice(max(begin, end - width), end),
            )
            for row, (begin, end) in enumerate(pairwise(offsets.tolist()))
        ]
    kept = np.minimum(np.diff(offsets), width)
    owner = np.repeat(np.arange(len(kept)), kept)
    from_end = np.repeat(np.cumsum(kept), kept) - np.arange(len(owner))
    return [(owner, width - from_end, offsets[1:][owner] - from_end)]


def _left_aligned(offsets: Int64s, width: int) -> Iterable[_Places]:
    """Give where the first ``width`` entries of each ragged row go: of all rows, or of each."""
    if len(offsets) - 1 <= _FEW:
        return [
            (row, slice(0, min(end - begin, width)), slice(begin, min(end, begin + width)))
            for row, (begin, end) in enumerate(pairwise(offsets.tolist()))
        ]
    kept = np.minimum(np.diff(offsets), width)
    owner = np.repeat(np.arange(len(kept)), kept)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(kept) - kept, kept)
    return [(owner, place, offsets[:-1][owner] + place)]


def _tokens(hashes: Ragged, width: int) -> NDArray[np.int64]:
    tokens = np.zeros((len(hashes), width), dtype=np.int64)
    for owner, place, kept in _left_aligned(hashes.offsets, width):
        tokens[owner, place] = hashes.values[kept]
    return tokens


def _dense(users: UserFeatures) -> Float32s:
    ends, last_ms = users.history_last_ms.offsets, users.history_last_ms.values
    latest_ms = np.full(len(users), -1, dtype=np.int64)
    filled = ends[1:] > ends[:-1]
    latest_ms[filled] = last_ms[ends[1:][filled] - 1]
    dense = np.empty((len(users), users.activity.shape[1] + _REQUEST_COLUMNS + 1), np.float32)
    dense[:, : -_REQUEST_COLUMNS - 1] = users.activity
    dense[:, -_REQUEST_COLUMNS - 1 : -1] = request_time(users.as_of_ms, latest_ms)
    dense[:, -1] = users.known
    return dense
