"""Popular items among users who share a profile token, for answers without the model server.

Axes: ``U`` users, ``E`` edges (user, item), ``N`` items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.bundle.segments import SegmentEntry, SegmentItem
from recsys.features.batch import Int64s
from training.prepared import Prepared, Sources

_USERS_A_STEP = 100_000


@dataclass(frozen=True, kw_only=True)
class SegmentsConfig:
    """Which tokens get a list."""

    min_users: int = 50
    """With fewer, a list says what single people did, and little else."""
    max_share: float = 0.9
    """Of all users: a token that nearly all have says nothing."""
    max_segments: int = 64
    """Those of the most users."""
    num_items: int = 200


def popular_segments(
    prepared: Prepared, sources: Sources, config: SegmentsConfig = SegmentsConfig()
) -> list[SegmentEntry]:
    """Give the lists, of the most users first; none where users have no tokens.

    An item's score is the logarithm of 1 plus the decayed weight of the users who took it, as of
    the end of training; tokens are those of that moment too.
    """
    edges = prepared.all_edges
    user, item = edges.user.numpy(), edges.item.numpy()
    weight = np.square(edges.weight.numpy().astype(np.float64))
    user_ids = sources.interactions.user_ids
    active = np.unique(user)
    token_of, owner = _tokens(sources, user_ids, active, prepared.split.test_from_ms - 1)
    if len(token_of) == 0:
        return []
    tokens, code, num_users = np.unique(token_of, return_inverse=True, return_counts=True)
    wanted = (num_users >= config.min_users) & (num_users <= config.max_share * len(active))
    chosen = np.flatnonzero(wanted)
    chosen = chosen[np.argsort(-num_users[chosen], kind="stable")][: config.max_segments]
    ids = sources.catalogue.vocabulary.item_ids
    available = prepared.available.numpy()
    entries = []
    for number in chosen.tolist():
        has_it = np.zeros(len(user_ids), dtype=np.bool_)
        has_it[owner[code == number]] = True
        theirs = has_it[user]
        total = np.bincount(item[theirs], weights=weight[theirs], minlength=len(available))
        rows = np.flatnonzero(available & (total > 0))
        order = rows[np.lexsort((rows, -total[rows]))][: config.num_items]
        items = [SegmentItem(ids[i - 1], round(float(np.log1p(total[i])), 6)) for i in order]
        entries.append(
            SegmentEntry(
                token_hash=int(tokens[number]), num_users=int(num_users[number]), items=items
            )
        )
    return entries


def _tokens(
    sources: Sources, user_ids: tuple[str, ...], active: Int64s, moment_ms: int
) -> tuple[Int64s, Int64s]:
    """Give each token of each of the ``active`` users, and whose it is."""
    hashes: list[Int64s] = []
    owners: list[Int64s] = []
    for some in _steps(active):
        moments = np.full(len(some), moment_ms, dtype=np.int64)
        features = sources.users.features_at([user_ids[u] for u in some], moments)
        found = features.token_hashes
        hashes.append(np.asarray(found.values, dtype=np.int64))
        owners.append(np.repeat(some, np.diff(found.offsets)))
    return np.concatenate(hashes), np.concatenate(owners)


def _steps(users: Int64s) -> Iterator[Int64s]:
    for begin in range(0, max(len(users), 1), _USERS_A_STEP):
        yield users[begin : begin + _USERS_A_STEP]
