"""Users a bundle's index is set on: those who will ask where they are known, else made up.

Their vectors are the bundle's own user tower's: where those lie that will ask, not where the items
do. They fall into kinds, each of which the index must hold for, since users with scattered
histories lie far from any cell and are a small part of a mean.

Axes: ``Q`` users, ``H`` history, ``D`` embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import UserContext
from recsys.retrieval.index_recall import UserKind

NUM_USERS = 512
"""Made up of each kind: the mean over as many is known to two thousandths."""
MIN_KNOWN = 200
"""With fewer users known, the index is set on made-up ones as well: a quarter of them would be too
few to tell .99 from .98."""
GATHERED, SCATTERED = "gathered histories", "scattered histories"
NEIGHBOURS, DRAWN = "made up: neighbours", "made up: drawn evenly"
_SCATTERED_SHARE = 0.25
_MAX_HISTORY = 12
_AT_ONCE = 32


def kinds_of_users(
    model: TorchServingModel, users: UserContext | None, *, seed: int
) -> tuple[UserKind, ...]:
    """Give kinds of users to measure an index on.

    Known users are two kinds, the quarter whose histories are most scattered and the others. The
    index must hold for both, and what it finds for made-up users with items drawn evenly is told.
    Where too few are known it must hold for the made-up ones: for users who had an item and its
    neighbours, and for those whose items were drawn evenly.

    Args:
        model: Of the bundle.
        users: ``[Q, ...]`` as the model server is told of them.
        seed: Of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    near = _made_up(model, _neighbours(model, generator), generator)
    drawn = _made_up(model, _drawn(model, generator), generator)
    num_known = 0 if users is None else len(users["history_index"])
    enough = num_known >= MIN_KNOWN
    made_up = (
        UserKind(name=NEIGHBOURS, vectors=near, is_held=not enough),
        UserKind(name=DRAWN, vectors=drawn, is_held=not enough),
    )
    if users is None or num_known == 0:
        return made_up
    return (*_known(model, users), *made_up)


def _known(model: TorchServingModel, users: UserContext) -> tuple[UserKind, UserKind]:
    """Part ``[Q, ...]`` users by how far apart the items of their histories lie."""
    together = torch.cat(
        [_cosine_in(model, history) for history in torch.split(users["history_index"], _AT_ONCE)]
    )
    order = together.argsort(stable=True)
    cut = round(_SCATTERED_SHARE * len(order))
    vectors = _vectors(model, users)
    return (
        UserKind(name=GATHERED, vectors=vectors[order[cut:]]),
        UserKind(name=SCATTERED, vectors=vectors[order[:cut]]),
    )


def _cosine_in(model: TorchServingModel, history: Tensor) -> Tensor:
    """Give ``[Q]``: the mean cosine of two items of a history ``[Q, H]``; 1 below two items."""
    local = model.items.vectors.local(model.items.valid(history.long()))
    items = F.normalize(F.embedding(local.place, local.vectors).float(), dim=2)
    here = (items != 0).any(dim=2)
    items, count = items * here.unsqueeze(2), here.sum(dim=1).float()
    pairs = (count * (count - 1)).clamp(min=1)
    cosine = (items.sum(dim=1).square().sum(dim=1) - count) / pairs
    return torch.where(count > 1, cosine, 1.0)


def _neighbours(model: TorchServingModel, generator: torch.Generator) -> Tensor:
    """Give histories ``[Q, H]`` of an item and some of its nearest others."""
    first = torch.randint(1, model.num_items + 1, (NUM_USERS,), generator=generator)
    near = torch.cat([model.similar(some, k=_MAX_HISTORY)[0] for some in first.view(-1, _AT_ONCE)])
    history = torch.cat([first.unsqueeze(1).int(), near], dim=1)
    return _shortened(history, 1, generator)


def _drawn(model: TorchServingModel, generator: torch.Generator) -> Tensor:
    """Give histories ``[Q, H]`` of two items or more, drawn evenly."""
    shape = (NUM_USERS, _MAX_HISTORY)
    history = torch.randint(1, model.num_items + 1, shape, generator=generator).int()
    return _shortened(history, 2, generator)


def _shortened(history: Tensor, least: int, generator: torch.Generator) -> Tensor:
    length = torch.randint(least, _MAX_HISTORY + 1, (len(history), 1), generator=generator)
    return history * (torch.arange(history.shape[1]) < length)


def _made_up(model: TorchServingModel, history: Tensor, generator: torch.Generator) -> Tensor:
    """Give vectors ``[Q, D]`` of users of whom nothing but the history ``[Q, H]`` is known."""
    d = model.dimensions
    history = history[:, : d.history_length]
    used = F.pad(history.flip(1), (d.history_length - history.shape[1], 0))
    count = len(history)
    nobody = torch.zeros(count, d.num_categories, d.num_category_features)
    user = {
        "history_index": used.int(),
        "history_count": (used != 0).float(),
        "history_age_s": torch.rand(used.shape, generator=generator) * 2e6 * (used != 0),
        "user_tokens": torch.zeros(count, d.num_tokens, dtype=torch.int64),
        "user_dense": torch.zeros(count, d.num_user_features),
        "user_category": nobody,
        "request_tokens": torch.zeros(count, d.num_request_tokens, dtype=torch.int64),
    }
    return _vectors(model, user)


def _vectors(model: TorchServingModel, users: UserContext) -> Tensor:
    """Give ``[Q, D]`` of the user tower, as it answers requests, on the CPU."""
    parts = zip(*(torch.split(tensor, _AT_ONCE) for tensor in users.values()), strict=True)
    found = [model.user_vectors(dict(zip(users, part, strict=True))) for part in parts]
    return torch.cat(found).float().cpu()
