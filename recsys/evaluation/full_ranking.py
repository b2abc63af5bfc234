"""Full ranking from a matrix of scores: every item competes, none are sampled.

Works through users in chunks, so that no more than ``[chunk, N + 1]`` scores exist at a time.
Sampled candidates are not offered: they rank recommenders in another order than all items do
(Krichene & Rendle 2020, "On sampled metrics for item recommendation").

Axes: ``B`` users, ``N`` items (column 0 is padding), ``K`` places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from recsys.errors import InputError
from recsys.features.batch import Bools, Int32s, Int64s, Ragged

Scores = Callable[[Int64s], Tensor]
"""From user rows ``[b]`` to scores ``[b, N + 1]``."""
_CHUNK_VALUES = 16_000_000
"""Scores at a time: 64 MB as float32."""


def chunk_size(num_items: int) -> int:
    """Give how many users' scores are looked at together."""
    return max(_CHUNK_VALUES // (num_items + 1), 1)


@torch.no_grad()
def top_items(
    scores: Scores, *, num_users: int, num_items: int, k: int, banned: Ragged | None = None,
    allowed: Bools | None = None,
) -> Int32s:  # fmt: skip
    """Give ``[B, k]`` the best items of each user, best first, 0 pads.

    Args:
        scores: Asked for users ``0 … B - 1`` in chunks. A NaN score is refused.
        num_users: B.
        num_items: N.
        k: Places wanted; a row with fewer candidates is padded.
        banned: Row ``b`` holds the items user ``b`` may not get (those seen before), 0 ignored.
        allowed: ``[N + 1]`` items that are candidates at all; None: every item.

    Equal scores within a list stand in the order of rows; which of those tied for the last place
    get in is left to torch.

    Raises:
        InputError: when a score is NaN.
    """
    out = np.zeros((num_users, k), dtype=np.int32)
    for begin, found in _chunks(scores, num_users, num_items, banned, allowed):
        value, index = found.topk(min(k, found.shape[1]), dim=1)
        # topk leaves the order of ties open: first by row, then stably by score.
        by_row = index.argsort(dim=1, stable=True)
        value, index = value.gather(1, by_row), index.gather(1, by_row)
        order = value.argsort(dim=1, descending=True, stable=True)
        value, index = value.gather(1, order), index.gather(1, order)
        index = index.masked_fill(value == -torch.inf, 0)
        out[begin : begin + len(index), : index.shape[1]] = index.cpu().numpy()
    return out


@torch.no_grad()
def ranks_of_targets(
    scores: Scores, target: Int64s, *, num_items: int, banned: Ragged | None = None,
    allowed: Bools | None = None,
) -> Int64s:  # fmt: skip
    """Give ``[B]`` the place, from 1, of each user's one relevant item among all candidates.

    What leave-one-out needs: hit rate (= recall) at k is ``rank <= k``, NDCG is
    ``1 / log2(rank + 1)`` there. A tie counts against us: a model that scores all items alike has
    the last place, not the first. The target is never banned. 0 for a target of 0 (no target).

    Raises:
        InputError: when a score is NaN.
    """
    out = np.zeros(len(target), dtype=np.int64)
    for begin, found in _chunks(scores, len(target), num_items, banned, allowed, target):
        wanted = torch.from_numpy(target[begin : begin + len(found)]).to(found.device)
        own = found.gather(1, wanted.unsqueeze(1))
        rank = (found >= own).sum(dim=1)  # itself is one of them
        out[begin : begin + len(found)] = rank.masked_fill(wanted == 0, 0).cpu().numpy()
    return out


def _chunks(
    scores: Scores, num_users: int, num_items: int, banned: Ragged | None,
    allowed: Bools | None, target: Int64s | None = None,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    step = chunk_size(num_items)
    for begin in range(0, num_users, step):
        rows = np.arange(begin, min(begin + step, num_users))
        found = scores(rows)
        if found.shape != (len(rows), num_items + 1):
            raise InputError(
                f"wanted scores of shape {(len(rows), num_items + 1)}, found {tuple(found.shape)}"
            )
        if bool(found.isnan().any()):
            raise InputError("a score is NaN: the model has diverged; train again, more slowly")
        found = found.float().clone()
        kept = None
        if target is not None:
            wanted = torch.from_numpy(target[rows]).to(found.device).unsqueeze(1)
            kept = found.gather(1, wanted)
        if allowed is not None:
            found[:, torch.from_numpy(~allowed).to(found.device)] = -torch.inf
        if banned is not None:
            length = np.diff(banned.offsets)[rows]
            part = banned.values[banned.offsets[begin] : banned.offsets[begin + len(rows)]]
            owner = torch.from_numpy(np.repeat(np.arange(len(rows)), length))
            item = torch.from_numpy(part.astype(np.int64))
            found[owner.to(found.device), item.to(found.device)] = -torch.inf
        if kept is not None:
            found.scatter_(1, wanted, kept)
        found[:, 0] = -torch.inf
        yield begin, found
