"""The ranker: how likely each objective is for a user and a candidate.

Three kinds of inputs meet in one first layer, which is split so that each part is computed as
rarely as it can be: the *user* part once a request, the *item* part once per refresh of the moving
item features, and only what crosses (source scores, the user's own history with the item and its
category, price against the user's usual price, similarity of vectors) per candidate. Then come
DCN-V2 crosses beside a small deep network, and one output per objective.

Ordering and probability are two questions. The order is learned by a listwise loss, which says
nothing of how likely a purchase is; so each objective has a second output, a monotone calibration
of the first one plus what the user's features say of users like this, learned by cross-entropy
without touching the order.

Axes: ``B`` users, ``C`` candidates, ``N`` items, ``O`` objectives, ``S`` sources, ``E`` width.
Source: Wang et al. 2021, "DCN V2", eq. 1-2 and its parallel structure; we cross the projection
of the inputs rather than the inputs, which is what lets the projection be split.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.config import RankerConfig
from recsys.models.item_table import ItemTable
from recsys.models.normalise import Standardise
from recsys.models.serving_model import Candidates, UserContext
from recsys.models.signature import Dimensions

DAY_S = 86_400.0
NUM_HISTORY_FEATURES = 6
"""Whether, how often and how lately the user had the candidate itself."""
NUM_PRICE_FEATURES = 2
"""Log price above the user's usual one, and its distance."""


class RankerOutput(NamedTuple):
    """What the ranker says of each candidate."""

    order: Tensor
    """``[B, C, O]`` logits to sort by; only differences within a user mean anything."""
    probability: Tensor
    """``[B, C, O]`` logits of calibrated probabilities."""


class UserHalf(NamedTuple):
    """What is computed once per user."""

    projected: Tensor
    """``[B, E]``."""
    factors: Tensor
    """``[B, F]``."""
    offset: Tensor
    """``[B, O]`` of the calibration."""


class ItemHalf(NamedTuple):
    """What is computed once per item and refresh."""

    projected: Tensor
    """``[N + 1, E]``."""
    factors: Tensor
    """``[N + 1, F]``."""


class Prices(NamedTuple):
    """What the price features are made of."""

    log_price: Tensor
    """``[N + 1]``, computed once per bundle."""
    usual: Tensor
    """``[B]``, the mean log price of the user's history, computed once per user."""


class Ranker(nn.Module):
    """Scores candidates for every objective."""

    def __init__(
        self,
        config: RankerConfig,
        dimensions: Dimensions,
        table: ItemTable,
        embedding_size: int,
    ) -> None:
        super().__init__()
        size = config.hidden_size
        num_objectives = len(dimensions.objectives)
        self.table = table
        self.user_dense = Standardise(dimensions.num_user_features)
        self.item_dense = Standardise(dimensions.num_item_features)
        num_cross = (
            len(dimensions.sources)
            + NUM_HISTORY_FEATURES
            + 2 * dimensions.num_category_features
            + NUM_PRICE_FEATURES
        )
        self.cross_scale = CrossScale(num_cross)
        self.project_user = nn.Linear(dimensions.num_user_features, size)
        self.project_item = nn.Linear(dimensions.num_item_features + 2, size, bias=False)
        self.project_cross = nn.Linear(num_cross + config.num_factors, size, bias=False)
        self.user_factors = nn.Linear(embedding_size, config.num_factors, bias=False)
        self.item_factors = nn.Linear(embedding_size, config.num_factors, bias=False)
        self.crosses = nn.ModuleList(nn.Linear(size, size) for _ in range(config.num_crosses))
        self.deep = nn.Sequential(
            nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(size, size // 2), nn.ReLU(),
        )  # fmt: skip
        self.direct = nn.Linear(num_cross, num_objectives, bias=False)
        self.output = nn.Linear(size + size // 2, num_objectives)
        self.calibrate_slope = nn.Parameter(torch.zeros(num_objectives))
        self.calibrate_user = nn.Sequential(
            nn.Linear(dimensions.num_user_features, 16), nn.Tanh(), nn.Linear(16, num_objectives)
        )

    @torch.no_grad()
    def start_probabilities_at(self, rate: Tensor) -> None:
        """Let the calibration begin at ``[O]`` base rates instead of one half."""
        last = self.calibrate_user[-1]
        assert isinstance(last, nn.Linear) and last.bias is not None
        last.weight.zero_()
        last.bias.copy_(torch.logit(rate))

    def item_half(self, item_activity: Tensor, item_vectors: Tensor) -> ItemHalf:
        """Compute the items' part from ``[N + 1, Fi]`` activity and ``[N + 1, D]`` vectors.

        The activity is that of one moment: training takes its lists one such moment at a time.
        """
        known_price = (self.table.price >= 0).float()
        inputs = torch.cat(
            [
                self.item_dense(item_activity),
                self.table.log_price().unsqueeze(1),
                known_price.unsqueeze(1),
            ],
            dim=1,
        )
        return ItemHalf(self.project_item(inputs), self.item_factors(item_vectors))

    def user_half(self, user_dense: Tensor, user_vectors: Tensor) -> UserHalf:
        """Compute the users' part from ``[B, Fu]`` raw features and ``[B, D]`` vectors."""
        dense = self.user_dense(user_dense)
        return UserHalf(
            projected=self.project_user(dense),
            factors=self.user_factors(user_vectors),
            offset=self.calibrate_user(dense),
        )

    def prices(self, user: UserContext, log_price: Tensor | None = None) -> Prices:
        """Compute the prices beside which candidates are seen; ``log_price`` is the table's."""
        if log_price is None:
            log_price = self.table.log_price()
        history = user["history_index"].long()
        mask = (history != 0) & (self.table.price.take(history) >= 0)
        usual = (log_price.take(history) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return Prices(log_price, usual)

    def cross_features(
        self, user: UserContext, candidates: Candidates, prices: Prices | None = None
    ) -> Tensor:
        """Give ``[B, C, X]`` raw features of user and candidate together; nothing is learned here.

        Sources' scores, the user's own history with the item and with its category, and the price
        beside the prices of the history (``prices``, where they are at hand).
        """
        index = candidates.item_index.long()
        category = self.table.category.take(index)
        padded = F.pad(user["user_category"], (0, 0, 0, 1))  # the last row: category unknown
        in_category = padded.gather(1, category.unsqueeze(2).expand(-1, -1, padded.shape[2]))
        share = in_category / (padded.sum(dim=1, keepdim=True) + 1.0)
        return torch.cat(
            [
                candidates.source_score,
                self._own_history(user, index),
                in_category.log1p(),
                share,
                self._price(self.prices(user) if prices is None else prices, index),
            ],
            dim=-1,
        )

    def _own_history(self, user: UserContext, index: Tensor) -> Tensor:
        """Give ``[B, C, NUM_HISTORY_FEATURES]`` of the user with the candidate itself."""
        history = user["history_index"].long()
        places = torch.arange(1, history.shape[1] + 1, device=history.device)
        place_of = torch.zeros(
            len(history), self.table.num_items + 1, dtype=torch.int64, device=history.device
        ).scatter_(1, history, places.expand_as(history))
        place_of[:, 0] = 0
        place = place_of.gather(1, index)
        had = (place > 0).float()
        at = (place - 1).clamp(min=0)
        count = user["history_count"].gather(1, at)
        age_days = user["history_age_s"].gather(1, at) / DAY_S
        features = torch.stack(
            [
                torch.ones_like(age_days),
                count.log1p(),
                age_days.log1p(),
                torch.exp(-age_days / 7.0),
                torch.exp(-age_days / 30.0),
                torch.exp(-age_days / 90.0),
            ],
            dim=-1,
        )
        return features * had.unsqueeze(2)

    @staticmethod
    def _price(prices: Prices, index: Tensor) -> Tensor:
        """Give ``[B, C, NUM_PRICE_FEATURES]``: log price against the history's mean log price."""
        difference = prices.log_price.take(index) - prices.usual.unsqueeze(1)
        return torch.stack([difference, difference.abs()], dim=-1)

    def combine(
        self, half: UserHalf, items: ItemHalf, index: Tensor, cross: Tensor
    ) -> RankerOutput:
        """Put both halves and ``[B, C, X]`` raw cross features of ``[B, C]`` items together."""
        crossing = self.cross_scale(cross)
        # F.embedding, not items[index]: its gradient on the CPU is several times faster.
        product = half.factors.unsqueeze(1) * F.embedding(index, items.factors)
        start = (
            half.projected.unsqueeze(1)
            + F.embedding(index, items.projected)
            + self.project_cross(torch.cat([crossing, product], dim=-1))
        )
        crossed = start
        for layer in self.crosses:
            crossed = start * layer(crossed) + crossed
        joined = torch.cat([crossed, self.deep(start)], dim=-1)
        order = self.output(joined) + self.direct(crossing)
        slope = F.softplus(self.calibrate_slope)
        probability = order.detach() * slope + half.offset.unsqueeze(1)
        return RankerOutput(order, probability)

    def forward(
        self,
        user: UserContext,
        user_vectors: Tensor,
        item_vectors: Tensor,
        item_activity: Tensor,
        candidates: Candidates,
    ) -> RankerOutput:
        """Score candidates in one go."""
        return self.combine(
            self.user_half(user["user_dense"], user_vectors),
            self.item_half(item_activity, item_vectors),
            candidates.item_index.long(),
            self.cross_features(user, candidates),
        )


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
        return ((values - self.mean) * self.scale).clamp(-6.0, 6.0)
