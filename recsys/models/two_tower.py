"""Two towers: a user and an item as vectors whose dot product says how well they fit.

The item tower adds up what is known of an item: an embedding of its own, its category, the words
of its text, its price. In training the own embedding is now and then left out (``id_dropout``), so
that the rest learns to stand alone: a never-seen item then gets a useful vector from its words.
With ``learns_newcomers`` such items share an embedding, and visits from an item's first days meet
it without its own, as serving meets what comes after training: that new things are wanted more (or
less) than old ones of the same content is learned too.

The user tower looks at the history through the *same* item vectors: pooled, by a few attention
heads that see each item's vector, its count and its age (so one head can learn the last days and
another the habit), or as a sequence (``history_sequence.py``). It adds profile tokens, category
shares and dense features, none of which needs to know who the user is.

Axes: ``B`` users, ``H`` history, ``D`` embedding, ``N`` items, ``A`` heads, ``E`` inner width.
Sources: Covington et al. 2016 (towers over averaged history), Yi et al. 2019 (normalised vectors
with a temperature), Volkovs et al. 2017, "DropoutNet" (leaving the identity out in training).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.config import TwoTowerConfig
from recsys.models.history_sequence import (
    DAY_S,
    NUM_USES,
    HistorySequence,
    first_used_column,
    use_features,
)
from recsys.models.item_table import ItemStatics, ItemTable, log_price
from recsys.models.normalise import Standardise
from recsys.models.serving_model import UserContext
from recsys.models.signature import Dimensions

_ROWS_OF_A_PART = 1 << 18
"""Of all items, that are embedded together where no gradient is wanted: what lies between words and
vector takes several times the memory of the vectors themselves."""
_ROWS_AT_ONCE = 32
"""Items that are embedded alone go through products of this many rows: another number takes
another path and may differ in the last bit."""


class ItemTower(nn.Module):
    """Items to unit vectors."""

    whole_tables = ("identity",)
    """Tables that are computed with as a whole, not looked up by rows."""

    def __init__(self, config: TwoTowerConfig, table: ItemTable, num_categories: int) -> None:
        super().__init__()
        size = config.embedding_size
        self.id_dropout = config.id_dropout
        self.table = table
        self.identity = nn.Embedding(table.num_items + 1, size, padding_idx=0)
        self.category = nn.Embedding(num_categories + 1, size)
        self.words = nn.EmbeddingBag(config.num_text_buckets + 1, size, mode="mean", padding_idx=0)
        self.price = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, size))
        self.mix = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
        self.newcomer = nn.Parameter(torch.zeros(size)) if config.learns_newcomers else None
        for embedding in (self.identity, self.category, self.words):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self) -> Tensor:
        """Give the vectors of all items, ``[N + 1, D]``, length 1, row 0 zero."""
        if not self.training and not torch.is_grad_enabled():
            return self._in_parts()
        table = self.table
        identity = self.identity.weight
        if self.training and self.id_dropout > 0:
            kept = torch.rand(len(identity), 1, device=identity.device) >= self.id_dropout
            identity = identity * kept
        return self._unit(self._own(identity, table.has_id) + self._content(table))

    def _in_parts(self) -> Tensor:
        weight = self.identity.weight
        vectors = torch.empty_like(weight)
        for begin in range(0, len(weight), _ROWS_OF_A_PART):
            rows = slice(begin, begin + _ROWS_OF_A_PART)
            statics = self.table.at(rows)
            own = self._own(weight[rows], statics.has_id)
            vectors[rows] = F.normalize(own + self._content(statics), dim=1)
        vectors[0] = 0.0
        return vectors

    def _own(self, identity: Tensor, has_id: Tensor) -> Tensor:
        """Give what items ``[M]`` have beside their content, of their embeddings ``[M, D]``."""
        if self.newcomer is None:
            return identity * has_id.unsqueeze(1)
        return torch.where(has_id.unsqueeze(1), identity, self.newcomer)

    def at(self, index: Tensor) -> Tensor:
        """Give ``[M, D]`` of the items ``[M]`` (not padding) alone, as ``forward`` of all.

        Those added to the table later have no embedding of their own. The same item gets the same
        bits, whichever others are asked for.
        """
        num_asked = len(index)
        index = F.pad(index, (0, -num_asked % _ROWS_AT_ONCE))
        if len(index) > _ROWS_AT_ONCE:
            return torch.cat([self.at(some) for some in torch.split(index, _ROWS_AT_ONCE)])[
                :num_asked
            ]
        statics = self.table.at(index)
        own = F.embedding(torch.where(statics.has_id, index, 0), self.identity.weight)
        identity = self._own(own, statics.has_id)
        return F.normalize(identity + self._content(statics), dim=1)[:num_asked]

    def as_newcomers(self) -> Tensor:
        """Give ``[N + 1, D]``: every item as it would be had nobody touched it yet.

        What an item without an embedding of its own gets from ``forward``, to the bit.
        """
        content = self._content(self.table)
        return self._unit(content if self.newcomer is None else self.newcomer + content)

    def _content(self, table: ItemTable | ItemStatics) -> Tensor:
        """Give ``[M, D]`` what category, words and price say."""
        content: Tensor = (
            self.category(table.category)
            + self.words(table.text)
            + self.price(log_price(table.price).unsqueeze(1))
        )
        mixed: Tensor = self.mix(content)
        return content + mixed

    def _unit(self, vectors: Tensor) -> Tensor:
        padding = torch.ones(len(vectors), 1, device=vectors.device)
        padding[0] = 0.0
        return F.normalize(vectors, dim=1) * padding


class UserTower(nn.Module):
    """User contexts to unit vectors."""

    def __init__(self, config: TwoTowerConfig, dimensions: Dimensions) -> None:
        super().__init__()
        size = config.embedding_size
        self.num_token_buckets = config.num_token_buckets
        self.tokens = nn.EmbeddingBag(config.num_token_buckets + 1, 16, mode="mean", padding_idx=0)
        self.dense = Standardise(dimensions.num_user_features)
        self.sequence: HistorySequence | None = None
        if config.history == "sequence":
            self.sequence = HistorySequence(config.sequence, size)
            read = size
        else:
            heads = config.num_heads
            self.attend_vector = nn.Linear(size, heads)
            self.attend_use = nn.Sequential(
                nn.Linear(NUM_USES, 16), nn.Tanh(), nn.Linear(16, heads)
            )
            read = heads * size
        width = read + 16 + dimensions.num_user_features + dimensions.num_categories
        self.dropout = nn.Dropout(config.dropout)
        self.residual = nn.Linear(read, size, bias=False)
        self.network = nn.Sequential(
            nn.Linear(width, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, size)
        )
        nn.init.normal_(self.tokens.weight, std=0.1)

    def item_attention(self, item_vectors: Tensor) -> Tensor:
        """Give ``[N + 1, A]``: what each item's vector adds to the heads' logits.

        A tower that reads sequences has no such heads: ``[N + 1, 0]``.
        """
        if self.sequence is not None:
            return item_vectors[:, :0]
        logits: Tensor = self.attend_vector(item_vectors)
        return logits

    def forward(
        self, user: UserContext, item_vectors: Tensor, item_attention: Tensor | None = None
    ) -> Tensor:
        """Give ``[B, D]`` unit vectors; an empty history reads as zeros.

        ``item_attention``: that of ``item_vectors``, where it is at hand (serving).
        """
        if self.sequence is not None:
            history = self.sequence(user, item_vectors)
        else:
            if item_attention is None:
                item_attention = self.item_attention(item_vectors)
            history = self._pool(user, item_vectors, item_attention)
        buckets = torch.where(
            user["user_tokens"] == 0, 0, user["user_tokens"] % self.num_token_buckets + 1
        )
        by_category = user["user_category"].sum(dim=2).log1p()
        share = by_category / by_category.sum(dim=1, keepdim=True).clamp(min=1.0)
        inputs = torch.cat(
            [history, self.tokens(buckets), self.dense(user["user_dense"]), share], dim=1
        )
        return F.normalize(self.residual(history) + self.network(self.dropout(inputs)), dim=1)

    def _pool(self, user: UserContext, item_vectors: Tensor, item_attention: Tensor) -> Tensor:
        index = user["history_index"].long()
        age_days, count = user["history_age_s"] / DAY_S, user["history_count"]
        begin = first_used_column(index)
        index, age_days, count = index[:, begin:], age_days[:, begin:], count[:, begin:]
        is_padding = (index == 0).unsqueeze(2)
        use = use_features(age_days, count)
        logits = F.embedding(index, item_attention) + self.attend_use(use)
        # -1e9, not -inf: a user without history would otherwise pool to NaN.
        weights = logits.masked_fill(is_padding, -1e9).softmax(dim=1)
        return _weighted_sums(weights.masked_fill(is_padding, 0.0), index, item_vectors)


def _weighted_sums(weights: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
    """Give ``[B, A * D]``: for each head the sum over the history of weight times vector.

    A large batch over a small catalogue goes through a dense ``[B, A, N + 1]`` matrix, whose
    product (and gradient) is several times faster than gathering ``[B, H, D]``.
    """
    num_heads = weights.shape[2]
    if index.numel() >= 4 * len(vectors):
        places = index.unsqueeze(1).expand(-1, num_heads, -1)
        spread = weights.new_zeros(len(index), num_heads, len(vectors))
        spread = spread.scatter_add(2, places, weights.transpose(1, 2))
        return (spread @ vectors).flatten(1)
    return (weights.transpose(1, 2) @ F.embedding(index, vectors)).flatten(1)


class TwoTower(nn.Module):
    """Both towers, trained together."""

    def __init__(self, config: TwoTowerConfig, dimensions: Dimensions, table: ItemTable) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.learns_newcomers = config.learns_newcomers
        self.items = ItemTower(config, table, dimensions.num_categories)
        self.users = UserTower(config, dimensions)

    def forward(self, user: UserContext) -> tuple[Tensor, Tensor]:
        """Give user vectors ``[B, D]`` and all item vectors ``[N + 1, D]``."""
        item_vectors = self.items()
        return self.users(user, item_vectors), item_vectors
