"""Recommenders as scores of all items: the model, what any must beat, and the two together.

Each is made from what may be known and answers for histories; the protocol decides which.

Axes: ``U`` users, ``b`` of a chunk, ``H`` history, ``N`` items, ``M`` neighbours, ``D`` embedding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.evaluation.full_ranking import Scores
from recsys.features.batch import Int64s, Ragged
from recsys.models.next_item import NextItemModel
from recsys.retrieval.ease import fit_ease
from recsys.retrieval.item_knn import fit_item_knn
from training.world import World

MAX_EASE_ITEMS = 15_000
"""Four matrices of 0.9 GB and some minutes of two cores; beyond it the baseline is left out."""
NUM_NEIGHBOURS = 200
_USERS_A_CHUNK = 512


def padded(histories: Ragged, rows: Int64s, longest: int) -> Tensor:
    """Give ``[b, H]`` the latest ``longest`` events of some users, 0 pads on the left."""
    lengths = np.minimum(np.diff(histories.offsets)[rows], longest)
    width = max(int(lengths.max(initial=0)), 1)
    back = np.arange(width, 0, -1)
    source = histories.offsets[1:][rows][:, None] - back
    found = np.where(back <= lengths[:, None], histories.values[np.maximum(source, 0)], 0)
    return torch.from_numpy(found.astype(np.int64))


@torch.no_grad()
def model_scores(model: NextItemModel, histories: Ragged, world: World) -> Scores:
    """Give the model's logits. Users are read once, in groups of similar length."""
    model.eval()
    vectors = model.item_vectors()
    num_users = len(histories)
    states = torch.zeros(num_users, model.size, device=world.device)
    longest = model.encoder.config.max_length
    order = np.argsort(np.diff(histories.offsets), kind="stable")
    for begin in range(0, num_users, _USERS_A_CHUNK):
        rows = order[begin : begin + _USERS_A_CHUNK]
        history = padded(histories, rows, longest).to(world.device)
        states[torch.from_numpy(rows).to(world.device)] = model.read(history, vectors)
    return lambda rows: (states[torch.from_numpy(rows).to(world.device)] @ vectors.T).cpu()


def popular_scores(past: Ragged, num_items: int) -> Scores:
    """Give how often each item was had."""
    counts = torch.from_numpy(np.bincount(past.values, minlength=num_items + 1)).float()
    return lambda rows: counts.expand(len(rows), -1)


class Neighbours:
    """Item-kNN (``recsys/retrieval/item_knn.py``), later items of a history counting more."""

    def __init__(self, past: Ragged, num_items: int, *, shrinkage: float) -> None:
        user, item = _edges(past)
        self._index, self._weight = fit_item_knn(
            user, item, torch.ones(len(item)), num_users=len(past), num_items=num_items,
            num_neighbours=NUM_NEIGHBOURS, shrinkage=shrinkage,
        )  # fmt: skip
        self._num_items = num_items

    def scores(self, histories: Ragged, *, decay: float, longest: int = 50) -> Scores:
        """Give summed cosines; an item counts ``decay`` times the one after it."""

        def of(rows: Int64s) -> Tensor:
            history = padded(histories, rows, longest)
            age = torch.arange(history.shape[1] - 1, -1, -1)
            share = decay**age * (history != 0)
            values = self._weight[history] * share.unsqueeze(2)
            out = torch.zeros(len(rows), self._num_items + 1)
            return out.scatter_add_(1, self._index[history].long().flatten(1), values.flatten(1))

        return of


class Ease:
    """EASE (``recsys/retrieval/ease.py``) on the binary matrix."""

    def __init__(self, past: Ragged, num_items: int, *, penalty: float) -> None:
        user, item = _edges(past)
        self._weights = fit_ease(
            user, item, torch.ones(len(item)), num_users=len(past), num_items=num_items,
            penalty=penalty,
        )  # fmt: skip

    def scores(self, histories: Ragged) -> Scores:
        """Give the sum of the weights of a history's items."""

        def of(rows: Int64s) -> Tensor:
            history = padded(histories, rows, int(np.diff(histories.offsets).max(initial=1)))
            had = torch.zeros(len(rows), len(self._weights)).scatter_(1, history, 1.0)
            had[:, 0] = 0.0
            return had @ self._weights

        return of


def fused_scores(model: Scores, neighbours: Scores, *, weight: float) -> Scores:
    """Give the model's log-probabilities plus ``weight`` times the neighbours' share of the best.

    Neighbours see only items that were had together; where they see none the model stands alone.
    """
    log_probability, share = log_probabilities(model), shares_of_best(neighbours)
    return lambda rows: log_probability(rows) + weight * share(rows)


def log_probabilities(model: Scores) -> Scores:
    """Give logits as log-probabilities over all items, -inf for padding."""

    def of(rows: Int64s) -> Tensor:
        logits = model(rows)
        nothing = torch.zeros(1, dtype=torch.long, device=logits.device)
        return logits.index_fill(1, nothing, -torch.inf).log_softmax(dim=1)

    return of


def shares_of_best(scores: Scores) -> Scores:
    """Give scores divided by the best of the user; all 0 stay 0."""

    def of(rows: Int64s) -> Tensor:
        found = scores(rows)
        return found / found.amax(dim=1, keepdim=True).clamp(min=1e-9)

    return of


def kept(scores: Scores, num_users: int) -> Scores:
    """Give the same from memory, for users asked about many times."""
    every = scores(np.arange(num_users))
    return lambda rows: every[torch.from_numpy(rows)]


def _edges(past: Ragged) -> tuple[Tensor, Tensor]:
    """Give user and item of each entry of the matrix, by user, each once."""
    user = np.repeat(np.arange(len(past)), np.diff(past.offsets))
    size = int(past.values.max(initial=0)) + 1
    pairs = np.unique(user * size + past.values)
    return torch.from_numpy(pairs // size), torch.from_numpy(pairs % size)
