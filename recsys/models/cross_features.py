"""What only user and candidate together say, before anything is learned.

Sources' scores, the user's own history with the item and with its category, the price beside the
prices of the history, and how like the history the item is made.

Axes: ``B`` users, ``C`` candidates, ``H`` history, ``N`` items, ``X`` features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.config import Aspect
from recsys.models.content import NUM_MATCH_FEATURES, content_match
from recsys.models.item_table import ItemTable
from recsys.models.serving_model import Candidates, UserContext
from recsys.models.signature import Dimensions
from recsys.models.taste import Taste, taste_match

DAY_S = 86_400.0
NUM_HISTORY_FEATURES = 6
"""Whether, how often and how lately the user had the candidate itself."""
_HISTORY_NAMES = ("had", "count", "age", "within_7d", "within_30d", "within_90d")
NUM_PRICE_FEATURES = 2
"""Log price above the user's usual one, and its distance."""


class Prices(NamedTuple):
    """What the price features are made of."""

    log_price: Tensor
    """``[N + 1]``, computed once per bundle."""
    usual: Tensor
    """``[B]``, the mean log price of the user's history, computed once per user."""


def num_cross_features(
    dimensions: Dimensions, content_size: int = 0, aspects: Sequence[Aspect] = ()
) -> int:
    """Give X; ``content_size``: that of the table's content vectors, 0 where there are none."""
    return (
        len(dimensions.sources)
        + NUM_HISTORY_FEATURES
        + 2 * dimensions.num_category_features
        + NUM_PRICE_FEATURES
        + (NUM_MATCH_FEATURES if content_size else 0)
        + len(aspects)
    )


def cross_feature_names(
    sources: Sequence[str], category: Sequence[str], *, has_content: bool, aspects: Sequence[str]
) -> list[str]:
    """Give the names of the X features, in order.

    Args:
        sources: Names of candidate sources.
        category: Columns of the user's activity in a category.
        has_content: Whether the table has content vectors.
        aspects: Names of the table's aspects.
    """
    return [
        *(f"source.{name}" for name in sources),
        *(f"own_history.{name}" for name in _HISTORY_NAMES),
        *(f"category.{name}.log" for name in category),
        *(f"category.{name}.share" for name in category),
        "price.above_usual",
        "price.distance",
        *(("content.met_once", "content.met_again") if has_content else ()),
        *(f"taste.{name}" for name in aspects),
    ]


def usual_prices(table: ItemTable, user: UserContext, log_price: Tensor | None = None) -> Prices:
    """Compute the prices beside which candidates are seen; ``log_price`` is the table's."""
    if log_price is None:
        log_price = table.log_price()
    history = user["history_index"].long()
    mask = (history != 0) & (table.price.take(history) >= 0)
    usual = (log_price.take(history) * mask).sum(1) / mask.sum(1).clamp(min=1)
    return Prices(log_price, usual)


def cross_features(
    table: ItemTable, user: UserContext, candidates: Candidates, prices: Prices,
    aspects: Sequence[Aspect] = (), taste: Taste | None = None,
) -> Tensor:  # fmt: skip
    """Give ``[B, C, X]`` raw features; row 0 (padding) gets some too.

    ``taste``: the user's by the table's ``aspects``, wanted where there are any.
    """
    index = candidates.item_index.long()
    features = [
        candidates.source_score,
        candidates.source_score.new_zeros(*index.shape, NUM_HISTORY_FEATURES)
        if candidates.are_new
        else _own_history(user, index),
        _rows_of(_by_category(user["user_category"]), table.category.take(index)),
        _price(prices, index),
    ]
    if table.has_content:
        features.append(content_match(table.content, user, index))
    if aspects:
        assert taste is not None
        features.append(taste_match(table.aspects, aspects, taste, index))
    return torch.cat(features, dim=-1)


# Each of these is computed for what a user has, a few dozen rows, and then looked up by candidate.


def _rows_of(table: Tensor, row: Tensor) -> Tensor:
    """Give ``[B, C, X]`` of ``[B, R, X]`` by the user's rows ``[B, C]``."""
    size, num_rows, width = table.shape
    if size > 1:
        row = row + torch.arange(0, size * num_rows, num_rows, device=row.device).unsqueeze(1)
    return F.embedding(row, table.reshape(size * num_rows, width))


def _by_category(activity: Tensor) -> Tensor:
    """Give ``[B, R + 1, 2 F]`` of ``[B, R, F]`` activity: logarithms and shares; last: unknown."""
    padded = F.pad(activity, (0, 0, 0, 1))
    return torch.cat([padded.log1p(), padded / (padded.sum(dim=1, keepdim=True) + 1.0)], dim=2)


def _own_history(user: UserContext, index: Tensor) -> Tensor:
    """Give ``[B, C, NUM_HISTORY_FEATURES]`` of the user with the candidate itself."""
    history = user["history_index"].long()
    # Looked up in the sorted history: a table of all items would be megabytes a user.
    ordered, place_of = history.sort(dim=1)
    found = torch.searchsorted(ordered, index.contiguous()).clamp_(max=history.shape[1] - 1)
    had = (ordered.gather(1, found) == index) & (index != 0)
    none = history.shape[1]  # the last row, of zeros
    at = torch.where(had, place_of.gather(1, found), none)
    return _rows_of(_by_use(user), at)


def _by_use(user: UserContext) -> Tensor:
    """Give ``[B, H + 1, NUM_HISTORY_FEATURES]`` of what is in the history; last: zeros."""
    age_days = user["history_age_s"] / DAY_S
    features = torch.stack(
        [
            torch.ones_like(age_days),
            user["history_count"].log1p(),
            age_days.log1p(),
            (age_days / -7.0).exp(),
            (age_days / -30.0).exp(),
            (age_days / -90.0).exp(),
        ],
        dim=-1,
    )
    return F.pad(features, (0, 0, 0, 1))


def _price(prices: Prices, index: Tensor) -> Tensor:
    """Give ``[B, C, NUM_PRICE_FEATURES]``: log price against the history's mean log price."""
    difference = prices.log_price.take(index) - prices.usual.unsqueeze(1)
    return torch.stack([difference, difference.abs()], dim=-1)


class CrossScale(nn.Module):
    """Plain standardisation of the cross features (their logarithms are already taken)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take the statistics of ``[..., X]`` values; a column that did not vary gives 0."""
        rows = values.reshape(-1, values.shape[-1]).float()
        deviation = rows.std(dim=0, unbiased=False)
        self.mean.copy_(rows.mean(dim=0))
        self.scale.copy_(torch.where(deviation > 1e-6, 1.0 / deviation.clamp(min=1e-3), 0.0))

    def forward(self, values: Tensor) -> Tensor:
        """Give values of the same shape."""
        return (values - self.mean).mul_(self.scale).clamp_(-6.0, 6.0)
