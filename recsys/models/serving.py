"""The serving model: sources, fusion and ranker over resident item tables, on CPU or CUDA.

This is the object the model server runs and the object training evaluates; there is no other
composition of the parts.

Axes: ``B`` users, ``C`` candidates, ``N`` items, ``S`` sources, ``O`` objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.compression.item_vectors import ItemVectors
from recsys.errors import InputError
from recsys.models.config import SourceMix
from recsys.models.cross_features import Prices
from recsys.models.ranker import Ranker
from recsys.models.served_items import ServedItems
from recsys.models.serving_model import Candidates, Ranked, UserContext
from recsys.models.signature import Dimensions
from recsys.models.two_tower import TwoTower
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.fusion import fuse
from recsys.retrieval.item_filter import ItemFilters, Passing
from recsys.retrieval.nearest_items import NearestItems
from recsys.retrieval.pool import as_candidates, fuse_found
from recsys.retrieval.source import CandidateSource, SourceInputs
from recsys.retrieval.two_tower import TwoTowerSource


class Prepared(dict[str, Tensor]):
    """A user context on the model's device, with what retrieval and ranking both derive from it."""

    def __init__(self, context: UserContext, *, vectors: Tensor, prices: Prices) -> None:
        """``vectors``: ``[B, D]`` of the user tower; ``history_index`` has become int64."""
        super().__init__(context)
        self.vectors = vectors
        self.prices = prices
        self.inputs: SourceInputs | None = None
        """What sources look at, and what they keep for further questions about the same users."""
        self.inputs_version = 0
        """Number of the last write to the items' moving features that ``inputs`` has seen."""


class TorchServingModel:
    """A ``ServingModel`` made of torch modules.

    What depends on the bundle alone is computed once per bundle, what depends on the moving item
    features once per change of an item's, and what depends on the user once per call (``prepare``).
    """

    search_from_items = 12_000
    """Catalogues from here on are searched by each source for its best; of smaller ones all items
    are scored, which leaves nothing out. That takes less time at 4,000 items and more at 100,000
    (measured, docs/decisions.md); the limit lies between, by interpolation."""

    def __init__(
        self,
        *,
        dimensions: Dimensions,
        towers: TwoTower,
        ranker: Ranker,
        sources: Sequence[CandidateSource],
        mix: SourceMix,
        objective_weights: Tensor,
        item_vectors: ItemVectors,
        available: Tensor,
        item_activity: Tensor,
        item_activity_as_of_ms: int,
        item_filters: ItemFilters | None = None,
        room: int = 0,
    ) -> None:
        """Take the parts, all on one device.

        ``objective_weights`` ``[O]`` blend the objectives; ``item_vectors`` of N + 1 items;
        ``available`` ``[N + 1]`` bool (row 0 False); ``item_activity`` ``[N + 1, Fi]`` as it was
        at ``item_activity_as_of_ms``; ``item_filters`` know the items' tokens (None: no filter can
        be asked for); ``room`` is how many items may be added (``items.add``).
        """
        self._dimensions = dimensions
        self._towers = towers.eval()
        self._ranker = ranker.eval()
        self._sources = tuple(sources)
        self._mix = mix
        towers_source = (one for one in self._sources if isinstance(one, TwoTowerSource))
        self._nearest = next((one.nearest for one in towers_source), NearestItems())
        self._objective_weights = objective_weights
        self._knows_all = any(source.knows_all for source in self._sources)
        self._items = ServedItems(
            towers=towers, ranker=ranker, sources=self._sources, vectors=item_vectors,
            available=available, activity=item_activity,
            activity_as_of_ms=item_activity_as_of_ms, filters=item_filters, room=room,
        )  # fmt: skip

    @property
    def dimensions(self) -> Dimensions:
        """Sizes of this bundle's tensors."""
        return self._dimensions

    @property
    def items(self) -> ServedItems:
        """What it keeps of each item; changes go there."""
        return self._items

    @property
    def num_items(self) -> int:
        """N, those that were added included, padding not counted."""
        return len(self._items)

    @property
    def ranker(self) -> Ranker:
        """What orders candidates; for looking at, not for changing."""
        return self._ranker

    @property
    def objective_weights(self) -> Tensor:
        """``[O]`` of the blended score."""
        return self._objective_weights

    @torch.inference_mode()
    def prepare(self, user: UserContext) -> Prepared:
        """Add the user tower's vectors and the usual price."""
        if isinstance(user, Prepared):
            return user
        user = self._on_device(user)
        user["history_index"] = self._items.valid(user["history_index"])
        prices = self._ranker.prices(user, self._items.log_price)
        vectors = self._user_vectors(user)
        return Prepared(user, vectors=vectors, prices=prices)

    @torch.inference_mode()
    def retrieve(
        self, user: UserContext, *, num_candidates: int, exclude_index: Tensor,
        exclude_history: Tensor, filters: Tensor | None = None,
    ) -> Candidates:  # fmt: skip
        """Give the best ``num_candidates`` of all sources that are not excluded."""
        user = user if isinstance(user, Prepared) else self.prepare(user)
        inputs, unavailable = self._source_inputs(user), self._items.unavailable
        history, are_new = user["history_index"], bool(exclude_history.cpu().numpy().all())
        if not are_new:
            history = torch.where(exclude_history.to(history.device), history, 0)
        index = torch.cat([self._items.valid(exclude_index), history], dim=1)
        excluded = Excluded(unavailable, index, self._passing(filters))
        count = min(num_candidates, self.num_items)
        if self.num_items < self.search_from_items:
            found = self._choose_of_all(inputs, excluded, count)
        else:
            found = fuse_found(
                [source.search(inputs, count, excluded) for source in self._sources],
                lambda index: self._scores(inputs, index),
                weights=self._mix.weights,
                quotas=self._mix.quotas,
                num_candidates=count,
                fill=None if self._knows_all else self._any_items(count, excluded),
            )
        return found._replace(are_new=are_new)

    def _choose_of_all(self, inputs: SourceInputs, excluded: Excluded, count: int) -> Candidates:
        scores = inputs.once(
            "all scores", lambda: [source.all_scores(inputs) for source in self._sources]
        )
        index = fuse(
            scores, weights=self._mix.weights, quotas=self._mix.quotas,
            excluded=excluded, num_candidates=count,
        )  # fmt: skip
        # A product of all is how they are found, not their score.
        theirs = [
            source.scores(inputs, index) if source.rounds_by_shape else of_all.gather(1, index)
            for source, of_all in zip(self._sources, scores, strict=True)
        ]
        return as_candidates(index, torch.stack(theirs, dim=2))

    @torch.inference_mode()
    def score_sources(self, user: UserContext, candidate_index: Tensor) -> Candidates:
        """Give every source's score of given candidates ``[B, C]``."""
        index = self._items.valid(candidate_index)
        score = self._scores(self._source_inputs(self.prepare(user)), index).transpose(1, 2)
        return Candidates(index.to(torch.int32), (score * (index != 0).unsqueeze(2)).contiguous())

    @torch.inference_mode()
    def rank(self, user: UserContext, candidates: Candidates) -> Ranked:
        """Score candidates; the blend is the weighted sum of the objectives' order logits."""
        prepared = user if isinstance(user, Prepared) else self.prepare(user)
        resident = self._items.resident  # once: another thread may swap it
        items, activity = resident.half, resident.activity
        candidates = candidates._replace(item_index=candidates.item_index.long())
        output = self._ranker.combine(
            self._ranker.user_half(prepared, prepared.vectors, items),
            items,
            candidates.item_index,
            self._ranker.cross_features(prepared, candidates, activity, prepared.prices),
        )
        # Not ``@``: a product with a vector rounds by how many candidates there are.
        score = (output.order * self._objective_weights).sum(2)
        if not candidates.are_full:
            score = score.masked_fill(candidates.item_index == 0, -torch.inf)
        return Ranked(score.float(), output.probability.sigmoid().float())

    @torch.inference_mode()
    def item_vectors(self) -> Tensor:
        """Give ``[N + 1, D]`` vectors of the item tower, row 0 zero."""
        return self._items.vectors.decoded()

    @torch.inference_mode()
    def user_vectors(self, user: UserContext) -> Tensor:
        """Give ``[B, D]`` vectors of the user tower."""
        return self.prepare(user).vectors

    @torch.inference_mode()
    def similar(self, item_index: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
        """Give the ``[B, k]`` nearest other available items of ``[B]`` items, and their cosines.

        Searched as users are: of a large catalogue by the index, exactly without one. An item 0 or
        outside the table has no neighbours: padding, -inf.
        """
        index = self._items.valid(item_index)
        own = self._items.vectors.local(index)
        excluded = Excluded(self._items.unavailable, index.unsqueeze(1))
        value, nearest = self._nearest.search(
            self._items.vectors, own.vectors[own.place], min(k, self.num_items), excluded
        )
        value[index == 0] = -torch.inf
        return nearest.masked_fill(value == -torch.inf, 0).to(torch.int32), value

    def _user_vectors(self, user: UserContext) -> Tensor:
        """Run the user tower over the vectors of its history alone, where they must be decoded."""
        local = self._items.vectors.local(user["history_index"])
        attention = self._items.attention
        if local.row is not None:
            user = {**user, "history_index": local.place}
            attention = attention[local.row]
        vectors: Tensor = self._towers.users(user, local.vectors, attention)
        return vectors

    def _on_device(self, user: UserContext) -> dict[str, Tensor]:
        device = self._items.vectors.device
        return {
            name: tensor.to(device, non_blocking=True) if tensor.device != device else tensor
            for name, tensor in user.items()
        }

    def _source_inputs(self, user: Prepared) -> SourceInputs:
        """Give those of ``user``, made anew where the items' features have moved meanwhile."""
        activity, changes = self._items.resident.activity, self._items.resident.changes
        if (
            user.inputs is None
            or user.inputs.item_activity is not activity
            or user.inputs_version != changes.version
        ):
            # A plain dictionary: ``user`` itself would make a ring that only the collector frees.
            user.inputs = SourceInputs(
                user=dict(user), user_vectors=user.vectors, item_vectors=self._items.vectors,
                item_activity=activity, item_changes=changes,
            )  # fmt: skip
            user.inputs_version = changes.version
        return user.inputs

    def _scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, S, C]``: every source's score of the items ``[B, C]``."""
        return torch.stack([source.scores(inputs, index) for source in self._sources], dim=1)

    def _any_items(self, count: int, excluded: Excluded) -> Tensor:
        """Give ``[B, count]`` items that are not excluded, whoever knows them; 0 pads."""
        wanted = count + excluded.most
        rows = (~excluded.unavailable).nonzero().flatten()[:wanted]
        index = rows.repeat(len(excluded.index), 1)
        for passing, users in excluded.filters:
            theirs = (~(excluded.unavailable | passing.refused)).nonzero().flatten()[:wanted]
            index[users] = 0
            index[users, : len(theirs)] = theirs
        return index.masked_fill(excluded.hits(index), 0)

    def _passing(self, filters: Tensor | None) -> Sequence[Passing | None]:
        """Give what each user's filters let through; nothing is kept out of an empty answer."""
        if filters is None or not filters.cpu().numpy().any():
            return ()
        if self._items.filters is None:
            raise InputError(
                "filters were asked for of a model that was loaded without its items' tokens; "
                "load it with load_serving_model", field="filters",
            )  # fmt: skip
        return self._items.filters.of(filters)
