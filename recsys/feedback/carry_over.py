"""A user's context as one bundle logged it, carried over into the rows and columns of another.

Rows of items differ between vocabularies, columns between feature plans; the values do not. What
the log does not have cannot be made up: an item the logging bundle did not know is not in the
carried history, a category it did not know has zeros, and of the request's context it has only the
keys it looked at.

Axes: ``B`` requests, ``H`` history places, ``T`` tokens, ``N`` items, ``G`` categories, ``Fd`` and
``Fc`` feature columns, as in ``models/signature.py``; an apostrophe marks those of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.data.vocabulary import Vocabulary
from recsys.errors import FeatureError
from recsys.features import names
from recsys.features.audit.tensors import shapes_of
from recsys.features.batch import Int32s, Int64s
from recsys.feedback.logging_bundles import LoggingBundle
from recsys.models.encode import UserEncoding
from recsys.models.request_tokens import REQUEST_TOKENS

Tensors = Mapping[str, NDArray[Any]]
_OF_HISTORY = ("history_index", "history_count", "history_age_s")
_DTYPES = {"history_index": np.int32, "user_tokens": np.int64, REQUEST_TOKENS: np.int64}
"""Of the others: float32."""
ABSENT = -1


@dataclass(frozen=True, kw_only=True)
class CarryOver:
    """Where each row and column of one bundle's context is found in what another logged."""

    row: Int32s
    """``[N' + 1]`` row here of each row there; 0 for padding and items that are unknown here."""
    history_length: int
    """H."""
    num_tokens: int
    """T."""
    request: Int64s
    """``[R]`` column there, -1 for a key the logging bundle did not look at."""
    dense: Int64s
    """``[Fd]`` column there."""
    category: Int64s
    """``[G]`` row there, -1 where the logging bundle did not know the category."""
    category_feature: Int64s
    """``[Fc]`` column there."""


def carry_over(logged: LoggingBundle, vocabulary: Vocabulary, encoding: UserEncoding) -> CarryOver:
    """Say how contexts of ``logged`` become those of ``vocabulary`` and ``encoding``.

    Raises:
        FeatureError: when a feature is wanted that the bundle did not log.
    """
    category_index = logged.vocabulary.category_index_of
    theirs = logged.encoding
    return CarryOver(
        row=np.concatenate([[0], vocabulary.indexes(logged.vocabulary.item_ids)]).astype(np.int32),
        history_length=encoding.history_length,
        num_tokens=encoding.num_tokens,
        request=np.array(
            [
                theirs.request_keys.index(key) if key in theirs.request_keys else ABSENT
                for key in encoding.request_keys
            ],
            dtype=np.int64,
        ),
        dense=_columns(
            encoding.dense_names, theirs.dense_names, names.USER_ACTIVITY, logged.bundle_id
        ),
        category=np.array(
            [category_index.get(name, ABSENT) for name in vocabulary.categories], dtype=np.int64
        ),
        category_feature=_columns(
            encoding.user_category_activity, theirs.user_category_activity,
            names.USER_CATEGORY_ACTIVITY, logged.bundle_id,
        ),
    )  # fmt: skip


def is_context_of(bundle: LoggingBundle, tensors: Tensors) -> bool:
    """Say whether these are tensors (batch axis 1) that ``bundle`` can have been given."""
    if {name: values.shape for name, values in tensors.items()} != shapes_of(bundle.encoding):
        return False
    if any(values.dtype != _DTYPES.get(name, np.float32) for name, values in tensors.items()):
        return False
    rows = tensors["history_index"]
    return bool(((rows >= 0) & (rows <= bundle.vocabulary.num_items)).all())


def carried(logged: Tensors, how: CarryOver) -> dict[str, NDArray[Any]]:
    """Give ``[B, ...]`` tensors of ``signature.user_context`` in their new rows and columns.

    Items unknown here are left out of the history and the rest is aligned to the right again, the
    newest H of them; T keeps the first tokens. Where the log has fewer places, padding fills up.

    Args:
        logged: ``[B, ...]`` as ``encode_users`` gave them to the logging bundle.
        how: ``carry_over`` from that bundle.
    """
    index = how.row[logged["history_index"]]
    found = {
        "history_index": index,
        "history_count": logged["history_count"],
        "history_age_s": logged["history_age_s"],
    }
    known = index != 0
    from_end = np.cumsum(known[:, ::-1], axis=1)[:, ::-1]  # 1 for the newest that is known
    request, place = np.nonzero(known & (from_end <= how.history_length))
    target = how.history_length - from_end[request, place]
    context: dict[str, NDArray[Any]] = {}
    for name in _OF_HISTORY:
        values = found[name]
        aligned = np.zeros((len(index), how.history_length), dtype=values.dtype)
        aligned[request, target] = values[request, place]
        context[name] = aligned
    tokens = np.zeros((len(index), how.num_tokens), dtype=np.int64)
    said = logged["user_tokens"][:, : how.num_tokens]
    tokens[:, : said.shape[1]] = said
    context["user_tokens"] = tokens
    if len(how.request):
        request = np.zeros((len(index), len(how.request)), dtype=np.int64)
        told = np.flatnonzero(how.request != ABSENT)
        if len(told):
            request[:, told] = logged[REQUEST_TOKENS][:, how.request[told]]
        context[REQUEST_TOKENS] = request
    context["user_dense"] = logged["user_dense"][:, how.dense]
    shape = (len(index), len(how.category), len(how.category_feature))
    category = np.zeros(shape, dtype=np.float32)
    there = np.flatnonzero(how.category != ABSENT)
    category[:, there] = logged["user_category"][:, how.category[there]][..., how.category_feature]
    context["user_category"] = category
    return context


def _columns(wanted: Sequence[str], logged: Sequence[str], view: str, bundle_id: str) -> Int64s:
    place = {name: column for column, name in enumerate(logged)}
    absent = [name for name in wanted if name not in place]
    if absent:
        raise FeatureError(
            f"wanted {', '.join(f'{view}:{name}' for name in absent)} as logged at serving; bundle "
            f"{bundle_id}, which answered in this time, did not log it (found "
            f"{', '.join(logged) or 'nothing'}). Train with joined features until bundles that log "
            "it have served for the time the ranker learns from, shorten that time (ranker.span_ms "
            "of the recipe), or take the feature out of the view"
        )
    return np.array([place[name] for name in wanted], dtype=np.int64)
