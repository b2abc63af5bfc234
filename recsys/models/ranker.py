"""The ranker: how likely each objective is for a user and a candidate.

Three kinds of inputs meet in one first layer, which is split so that each part is computed as
rarely as it can be: the *user* part once a request, the *item* part once per refresh of the moving
item features, and only what crosses (source scores, the user's own history with the item and its
category, price against the user's usual price, similarity of vectors, what of the history speaks
for the candidate) per candidate. Then come DCN-V2 crosses beside deep networks, and one output per
objective.

Ordering and probability are two questions. The order is learned by a listwise loss, which says
nothing of how likely a purchase is; so each objective has a second output, a monotone calibration
of the first one plus what the user's features say of users like this, learned by cross-entropy
without touching the order. Where lists are too short to teach an order, ``one_logit`` makes both
one (Sheng et al. 2023, "Joint optimization of ranking and calibration with contextualized hybrid
model", with one logit instead of two).

What it is made of: ``ranker_layers.py``.

Axes: ``B`` users, ``C`` candidates, ``N`` items, ``M`` item rows, ``O`` objectives, ``S`` sources,
``E`` width, ``R`` what represents an item.
Source: Wang et al. 2021, "DCN V2", eq. 1-2 and its parallel structure; we cross the projection
of the inputs rather than the inputs, which is what lets the projection be split.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.cross_features import Prices, cross_features, usual_prices
from recsys.models.crosses import cross as cross_step
from recsys.models.item_table import log_price
from recsys.models.joined_layers import add_output, alike_anywhere, few_outputs
from recsys.models.ranker_halves import ItemHalf, UserHalf
from recsys.models.ranker_layers import RankerLayers
from recsys.models.request_tokens import REQUEST_TOKENS
from recsys.models.serving_model import Candidates, UserContext
from recsys.models.target_attention import AttentionItems
from recsys.models.taste import Taste, taste_of

_FEWEST_ROWS = 16
"""Rows are computed at least so many at once: of a handful, products take another path and may
differ in the last bit."""


class RankerOutput(NamedTuple):
    """What the ranker says of each candidate."""

    order: Tensor
    """``[B, C, O]`` logits to sort by; only differences within a user mean anything."""
    probability: Tensor
    """``[B, C, O]`` logits of calibrated probabilities."""


class Ranker(RankerLayers):
    """Scores candidates for every objective."""

    def item_half(
        self, item_activity: Tensor, item_vectors: Tensor, rows: Tensor | None = None
    ) -> ItemHalf:
        """Compute the items' part from ``[M, Fi]`` activity and all ``[N + 1, D]`` vectors.

        ``rows`` ``[M]`` says whose activity each row is, which may be of the same item at several
        moments (training); without it the rows are the items in order, at one moment.
        """
        static, own = self._fixed_inputs(
            slice(0, len(item_activity)) if rows is None else slice(None)
        )
        vectors = item_vectors
        if rows is not None:
            static = F.embedding(rows, static)
            if vectors.shape[1]:
                vectors = F.embedding(rows, vectors)
            else:
                vectors = vectors.new_zeros(len(rows), 0)
        attention = self._attended(item_vectors, own)
        return ItemHalf(*self._projected(item_activity, static, vectors), attention)

    def items_at(self, item_activity: Tensor, item_vectors: Tensor, rows: Tensor) -> ItemHalf:
        """Compute all of the items' part for the items ``rows`` ``[M]`` alone: ``item_rows``, and
        of attention ``[M, ...]``."""
        attention = None
        if self.config.attention_heads:
            attention = self._attended(item_vectors, self._own_items(rows))
        return ItemHalf(*self.item_rows(item_activity, item_vectors, rows), attention)

    def _attended(self, item_vectors: Tensor, own: Tensor | None) -> AttentionItems | None:
        if not self.config.attention_heads:
            return None
        seen = item_vectors if own is None else torch.cat([item_vectors, own], dim=1)
        return self.attention.items(seen)

    def item_rows(
        self, item_activity: Tensor, item_vectors: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute ``projected`` and ``factors`` of the items ``rows`` ``[M]`` alone.

        They are those of ``item_half`` from ``[M, Fi]`` activity and ``[M, D]`` vectors. In
        training mode there is no telling: what is dropped differs.
        """
        missing = max(0, _FEWEST_ROWS - len(rows))
        activity, vectors = (F.pad(t, (0, 0, 0, missing)) for t in (item_activity, item_vectors))
        static, _ = self._fixed_inputs(F.pad(rows, (0, missing)))
        projected, factors = self._projected(activity, static, vectors)
        return projected[: len(rows)], factors[: len(rows)]

    def _projected(
        self, item_activity: Tensor, static: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give ``[M, E]`` and ``[M, F]`` of what is known of ``M`` item rows."""
        moving = [self.item_dense(item_activity)]
        if self.config.item_rates:
            moving.append(self.item_rates(item_activity))
        known = torch.cat([*moving, static], dim=1)
        if self.config.token_size:
            vectors = torch.cat([vectors, known], dim=1)
        return self.project_item(known), alike_anywhere(self.item_factors, vectors)

    def _fixed_inputs(self, rows: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Give what time does not move of ``[M]`` items, and what of it is the ranker's own."""
        price = self.table.price[rows]
        inputs = [log_price(price).unsqueeze(1), (price >= 0).float().unsqueeze(1)]
        own = self._own_items(rows)
        if own is not None:
            inputs.append(own)
        return torch.cat(inputs, dim=1), own

    def _own_items(self, rows: Tensor | slice) -> Tensor | None:
        """Give the ranker's own ``[M, R]`` embedding of items, None without such.

        Items that were added to the table have no identity; a slice ends before them.
        """
        if not self.config.token_size:
            return None
        has_id = self.table.has_id[rows]
        own: Tensor = torch.zeros(len(has_id), self.config.token_size, device=has_id.device)
        if self.config.num_item_tokens:
            own = self.item_tokens(self.table.tokens[rows])
        if self.config.item_identities:
            known = rows if isinstance(rows, slice) else torch.where(has_id, rows, 0)
            own = own + self.identity.weight[known] * has_id.unsqueeze(1)
        dropped: Tensor = self.embedding_dropout(own)
        return dropped

    def user_half(self, user: UserContext, user_vectors: Tensor, items: ItemHalf) -> UserHalf:
        """Compute the users' part from their context and the ``[B, D]`` vectors of the tower.

        ``items`` are those the history is looked up in.
        """
        dense = self.user_dense(user["user_dense"])
        known = dense
        if self.config.user_rates:
            known = torch.cat([dense, self.user_rates(user["user_dense"])], dim=1)
        if self.config.token_size:
            tokens = user["user_tokens"]
            if (said := user.get(REQUEST_TOKENS)) is not None:
                tokens = torch.cat([tokens, said.to(tokens.device)], dim=1)
            own = self.embedding_dropout(self.user_tokens(tokens))
            known = torch.cat([known, own], dim=1)
            user_vectors = torch.cat([user_vectors, known], dim=1)
        history = None
        if items.attention is not None:
            history = self.attention.history(items.attention, user)
        return UserHalf(
            projected=self.project_user(known),
            factors=self.user_factors(user_vectors),
            offset=dense.new_zeros(len(dense), 1)
            if self.config.one_logit
            else self.calibrate_user(dense),
            history=history,
        )

    def prices(self, user: UserContext, log_price: Tensor | None = None) -> Prices:
        """Compute the prices beside which candidates are seen; ``log_price`` is the table's."""
        return usual_prices(self.table, user, log_price)

    def taste(self, user: UserContext, item_activity: Tensor) -> Taste | None:
        """Compute the users' tastes from ``[N + 1, Fi]`` activity; None without aspects."""
        if self.config.taste_counts is None or not self.config.aspects:
            return None
        counts = F.embedding(
            user["history_index"].long(), item_activity[:, list(self.config.taste_counts)]
        )
        return taste_of(self.table.aspects, user, counts)

    def cross_features(
        self,
        user: UserContext,
        candidates: Candidates,
        item_activity: Tensor,
        prices: Prices | None = None,
    ) -> Tensor:
        """Give ``[B, C, X]`` raw features of user and candidate together; nothing is learned here.

        ``item_activity``: that of all items, ``[N + 1, Fi]``; ``prices``: those of the history,
        where they are at hand.
        """
        return cross_features(
            self.table, user, candidates, self.prices(user) if prices is None else prices,
            self.config.aspects, self.taste(user, item_activity),
        )  # fmt: skip

    def combine(
        self,
        half: UserHalf,
        items: ItemHalf,
        index: Tensor,
        cross: Tensor,
        *,
        item_index: Tensor | None = None,
        position: Tensor | None = None,
    ) -> RankerOutput:
        """Put both halves and ``[B, C, X]`` raw cross features together.

        Args:
            half: The users' part.
            items: The items' part.
            index: ``[B, C]`` rows of ``items.projected``.
            cross: As ``cross_features`` gives them.
            item_index: ``[B, C]`` items, where ``index`` does not count them in order.
            position: ``[B, C]`` displayed places, in training alone; -1 is unknown.
        """
        crossing = self.cross_scale(cross)
        # F.embedding, not items[index]: its gradient on the CPU is several times faster.
        product = half.factors.unsqueeze(1) * F.embedding(index, items.factors)
        crosses = [crossing, product]
        if half.history is not None:
            assert items.attention is not None
            queries = F.embedding(
                index if item_index is None else item_index, items.attention.query
            )
            crosses.append(self.attention(queries, half.history))
        start = F.embedding(index, items.projected).add_(half.projected.unsqueeze(1))
        start = add_output(start, self.project_cross, torch.cat(crosses, dim=-1))
        crossed = start
        for layer in self.crosses:
            crossed = cross_step(crossed, start, layer(crossed))
        said = (crossed,) if self.config.num_experts else (crossed, self.deep(start))
        logits = few_outputs(self.direct, crossing, add_to=few_outputs(self.output, *said))
        order = logits.view(len(logits), *index.shape).permute(1, 2, 0)
        if self.config.num_experts:
            order = order + self.experts(start)
        if position is not None and self.config.num_positions:
            order = order + self.position(position)
        probability = order
        if not self.config.one_logit:
            slope = F.softplus(self.calibrate_slope)
            probability = order.detach() * slope + half.offset.unsqueeze(1)
        if self.config.is_calibrated:
            probability = self.calibration(probability)
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
        items = self.item_half(item_activity, item_vectors)
        return self.combine(
            self.user_half(user, user_vectors, items),
            items,
            candidates.item_index.long(),
            self.cross_features(user, candidates, item_activity),
        )
