"""The serving model: sources, fusion and ranker over resident item tables, on CPU or CUDA.

This is the object the model server runs and the object training evaluates; there is no other
composition of the parts.

Axes: ``B`` users, ``C`` candidates, ``N`` items, ``S`` sources, ``O`` objectives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsys.compression.item_vectors import ItemVectors
from recsys.errors import InputError
from recsys.models.config import SourceMix
from recsys.models.created_items import CreatedItems
from recsys.models.cross_features import Prices
from recsys.models.growing_rows import GrowingRows
from recsys.models.item_table import ItemStatics, log_price
from recsys.models.ranker import Ranker
from recsys.models.resident_items import ResidentItems, joined
from recsys.models.serving_model import Candidates, Ranked, UserContext
from recsys.models.signature import Dimensions
from recsys.models.two_tower import TwoTower
from recsys.retrieval.best import best
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.fusion import fuse
from recsys.retrieval.item_filter import ItemFilters, Passing
from recsys.retrieval.pool import fuse_found
from recsys.retrieval.source import CandidateSource, FollowsVectors, SourceInputs

if TYPE_CHECKING:
    from recsys.retrieval.live_index import Fold, LiveIndex  # faiss, where there is one

_MOST_WITHDRAWN = 256
"""Withdrawn before an index is told: until then they are left out of what it finds."""


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
        be asked for); ``room`` is how many items may be added (``add_items``).
        """
        self._dimensions = dimensions
        self._towers = towers.eval()
        self._ranker = ranker.eval()
        self._sources = tuple(sources)
        self._mix = mix
        self._objective_weights = objective_weights
        self._item_vectors = item_vectors
        self._room = room
        self._created = CreatedItems(len(available) - 1)
        self._availability = [
            GrowingRows(some.clone(), room=room) for some in (available, ~available)
        ]
        self._available, self._unavailable = (some.rows for some in self._availability)
        self._num_withdrawn = 0
        """Since sources last saw another tensor of unavailable items; they may keep what they made
        of it, and look by themselves whether what they found has been withdrawn since."""
        self._item_filters = item_filters
        self._knows_all = any(source.knows_all for source in self._sources)
        with torch.inference_mode():
            attention = towers.users.item_attention(item_vectors.decoded())
            self._item_attention = GrowingRows(attention, room=room)
            self._log_price = GrowingRows(ranker.table.log_price(), room=room)
        ranker.table.make_room(room)
        item_vectors.make_room(room)
        self._resident = self._prepare(item_activity, item_activity_as_of_ms)

    @property
    def dimensions(self) -> Dimensions:
        """Sizes of this bundle's tensors."""
        return self._dimensions

    @property
    def num_items(self) -> int:
        """N, those that were added included, padding not counted."""
        return len(self._available) - 1

    @property
    def created(self) -> CreatedItems:
        """Items that were added since the bundle was made, by key."""
        return self._created

    @property
    def ranker(self) -> Ranker:
        """What orders candidates; for looking at, not for changing."""
        return self._ranker

    @property
    def objective_weights(self) -> Tensor:
        """``[O]`` of the blended score."""
        return self._objective_weights

    @torch.inference_mode()
    def activity_of(self, item_index: Tensor) -> Tensor:
        """Give ``[B, C, Fi]`` moving features of items ``[B, C]``, as ranking sees them now."""
        return self._resident.activity[self._valid(item_index)]

    @property
    def item_activity_as_of_ms(self) -> int:
        """When the resident item features were true."""
        return self._resident.as_of_ms

    def set_item_activity(self, activity: Tensor, as_of_ms: int) -> None:
        """Swap in ``[M + 1, Fi]`` moving features of the first M items: one assignment, so a reader
        in another thread sees the old ones or the new ones. M is N, or less by items that were
        added since they were read, which keep what they have.

        Raises:
            InputError: when the shape is another.
        """  # fmt: skip
        most = (self.num_items + 1, self._dimensions.num_item_features)
        least = self.created.num_items + 1
        if activity.dim() != 2 or activity.shape[1] != most[1] or (
            not least <= len(activity) <= most[0]
        ):  # fmt: skip
            raise InputError(f"item activity has shape {tuple(activity.shape)}, wanted {most}")
        later = self._resident.activity[len(activity) :]
        if len(later):
            activity = torch.cat([activity.to(later), later])
        self._resident = self._prepare(activity, as_of_ms)

    @torch.inference_mode()
    def change_item_activity(self, item_index: Tensor, activity: Tensor) -> None:
        """Write ``[M, Fi]`` moving features of distinct items ``[M]`` in place.

        Nothing else of the model may be asked meanwhile.

        Raises:
            InputError: when a row is not in the table, or the shapes do not fit.
        """
        rows = item_index.to(self._item_vectors.device).long()
        wanted = (len(rows), self._dimensions.num_item_features)
        if tuple(activity.shape) != wanted:
            raise InputError(f"item activity has shape {tuple(activity.shape)}, wanted {wanted}")
        if not len(rows):
            return
        if not 1 <= int(rows.min()) <= int(rows.max()) <= self.num_items:
            raise InputError(
                f"item activity: wanted rows 1 to {self.num_items}, found {int(rows.min())} to "
                f"{int(rows.max())}"
            )
        activity = activity.to(rows.device, torch.float32)
        local = self._item_vectors.local(rows)
        projected, factors = self._ranker.item_rows(activity, local.vectors[local.place], rows)
        resident = self._resident
        resident.activity[rows] = activity
        resident.half.projected[rows] = projected
        resident.half.factors[rows] = factors
        resident.changes.add(rows)

    def confirm_item_activity(self, as_of_ms: int) -> None:
        """Say that the resident item features are those of ``as_of_ms``, as they stand."""
        self._resident.as_of_ms = as_of_ms

    def set_available(self, available: Tensor) -> None:
        """Swap in ``[N + 1]`` bool: which items may be retrieved (row 0 never is).

        Raises:
            InputError: when the shape is not the resident one.
        """
        if tuple(available.shape) != tuple(self._available.shape):
            raise InputError(
                f"availability has shape {tuple(available.shape)}, wanted {(self.num_items + 1,)}"
            )
        self._available.copy_(available)
        self._available[0] = False
        torch.logical_not(self._available, out=self._unavailable)
        self._resident.changes.add_all()
        self._see_unavailable_anew()

    @torch.inference_mode()
    def change_items(
        self, item_index: Sequence[int], available: Sequence[bool],
        tokens: Mapping[int, Iterable[str]],
    ) -> None:  # fmt: skip
        """Say which items may be retrieved from now on, and other tokens of some, in place."""
        device = self._available.device
        rows = torch.tensor(item_index, dtype=torch.int64, device=device)
        is_offered = torch.tensor(available, dtype=torch.bool, device=device)
        moved = self._available[rows] != is_offered
        self._available[rows] = is_offered
        self._unavailable[rows] = ~is_offered
        self._num_withdrawn += int((moved & ~is_offered).sum())
        if moved.any():
            self._resident.changes.add(rows[moved])
        if self._num_withdrawn >= _MOST_WITHDRAWN or bool((moved & is_offered).any()):
            # They leave out what is withdrawn from it, and cannot know what is offered again.
            self._see_unavailable_anew()
        if tokens and self._item_filters is not None:
            self._item_filters.change(tokens)

    @torch.inference_mode()
    def put_items(self, item_index: Sequence[int], statics: ItemStatics) -> None:
        """Describe the items ``[M]`` anew: their vectors and halves are computed again, in place.

        Nothing else of the model may be asked meanwhile, as with ``change_items``.
        """
        device = self._item_vectors.device
        index = torch.tensor(item_index, dtype=torch.int64, device=device)
        follow = [source for source in self._sources if isinstance(source, FollowsVectors)]
        for source in follow:
            source.before_moving(self._item_vectors)
        self._ranker.table.put(index, statics)
        self._item_vectors.put(index, self._towers.items.at(index))
        vectors = self._item_vectors.local(index)
        rows = vectors.vectors[vectors.place]
        self._item_attention.put(index, self._towers.users.item_attention(rows))
        self._log_price.put(index, log_price(self._ranker.table.price[index]))
        known = self._resident.activity
        activity = torch.zeros(len(index), known.shape[1], device=device)
        activity[index < len(known)] = known[index[index < len(known)]]
        self._resident.put(index, activity, self._ranker.items_at(activity, rows, index))
        for source in follow:
            source.moved(index)

    @torch.inference_mode()
    def add_items(self, keys: Sequence[int], statics: ItemStatics) -> list[int]:
        """Add items by key and give their rows, the next ones; not offered yet, without activity.

        Raises:
            InputError: when there is no room for so many.
        """
        if len(self.created) + len(keys) > self._room:
            raise InputError(
                f"wanted room for {len(keys)} more items, found {len(self.created)} of at most "
                f"{self._room} taken; train and publish a bundle that knows them"
            )
        first = self.num_items + 1
        rows = list(range(first, first + len(keys)))
        self.put_items(rows, statics)
        for some, is_so in zip(self._availability, (False, True), strict=True):
            index = torch.tensor(rows, device=some.rows.device)
            some.put(index, torch.full((len(rows),), is_so, device=some.rows.device))
        self._available, self._unavailable = (some.rows for some in self._availability)
        if self._item_filters is not None:
            self._item_filters.grow(len(self._available))
        for key in keys:
            self.created.add(key)
        return rows

    @property
    def live_indexes(self) -> list[LiveIndex]:
        """Indexes of sources, beside which items gather that came or changed."""
        found = [getattr(source, "index", None) for source in self._sources]
        return [index for index in found if index is not None]

    @torch.inference_mode()
    def fold(self, index: LiveIndex) -> Fold:
        """Say what goes into the index that comes after ``index``, one of ``live_indexes``."""
        return index.fold(self._item_vectors)

    def describes(self, item_index: int, statics: ItemStatics, place: int) -> bool:
        """Say whether the item is already described as ``statics`` says at ``place``."""
        return self._ranker.table.says(item_index, statics, place)

    def _see_unavailable_anew(self) -> None:
        """Make sources look again that keep something for as long as this is the same tensor."""
        self._unavailable = self._unavailable[:]
        self._num_withdrawn = 0

    @torch.inference_mode()
    def prepare(self, user: UserContext) -> Prepared:
        """Add the user tower's vectors and the usual price."""
        if isinstance(user, Prepared):
            return user
        user = self._on_device(user)
        user = {**user, "history_index": user["history_index"].long()}
        prices = self._ranker.prices(user, self._log_price.rows)
        vectors = self._user_vectors(user)
        return Prepared(user, vectors=vectors, prices=prices)

    @torch.inference_mode()
    def retrieve(
        self, user: UserContext, *, num_candidates: int, exclude_index: Tensor,
        exclude_history: Tensor, filters: Tensor | None = None,
    ) -> Candidates:  # fmt: skip
        """Give the best ``num_candidates`` of all sources that are not excluded."""
        user = self.prepare(user)
        inputs, unavailable = self._source_inputs(user), self._unavailable
        history = self._valid(user["history_index"])
        history = torch.where(exclude_history.to(history.device), history, 0)
        index = torch.cat([self._valid(exclude_index), history], dim=1)
        excluded = Excluded(unavailable, index, self._passing(filters))
        count = min(num_candidates, self.num_items)
        if self.num_items < self.search_from_items:
            return self._choose_of_all(inputs, excluded, count)
        return fuse_found(
            [source.search(inputs, count, excluded) for source in self._sources],
            lambda index: self._scores(inputs, index),
            weights=self._mix.weights,
            quotas=self._mix.quotas,
            num_candidates=count,
            fill=None if self._knows_all else self._any_items(count, excluded),
        )

    def _choose_of_all(self, inputs: SourceInputs, excluded: Excluded, count: int) -> Candidates:
        scores = inputs.once(
            "all scores",
            lambda: torch.stack([source.all_scores(inputs) for source in self._sources], dim=1),
        )
        index = fuse(
            scores, weights=self._mix.weights, quotas=self._mix.quotas,
            excluded=excluded.table(), num_candidates=count,
        )  # fmt: skip
        columns = index.unsqueeze(1).expand(-1, scores.shape[1], -1)
        gathered = scores.gather(2, columns)
        for row, source in enumerate(self._sources):
            if source.rounds_by_shape:  # a product of all is how they are found, not their score
                gathered[:, row] = source.scores(inputs, index)
        gathered = gathered.transpose(1, 2) * (index != 0).unsqueeze(2)
        return Candidates(index.to(torch.int32), gathered.contiguous())

    @torch.inference_mode()
    def score_sources(self, user: UserContext, candidate_index: Tensor) -> Candidates:
        """Give every source's score of given candidates ``[B, C]``."""
        index = self._valid(candidate_index)
        score = self._scores(self._source_inputs(self.prepare(user)), index).transpose(1, 2)
        return Candidates(index.to(torch.int32), (score * (index != 0).unsqueeze(2)).contiguous())

    @torch.inference_mode()
    def rank(self, user: UserContext, candidates: Candidates) -> Ranked:
        """Score candidates; the blend is the weighted sum of the objectives' order logits."""
        prepared = self.prepare(user)
        resident = self._resident  # once: another thread may swap it
        items, activity = resident.half, resident.activity
        output = self._ranker.combine(
            self._ranker.user_half(prepared, prepared.vectors, items),
            items,
            candidates.item_index.long(),
            self._ranker.cross_features(prepared, candidates, activity, prepared.prices),
        )
        # Not ``@``: a product with a vector rounds by how many candidates there are.
        score = (output.order * self._objective_weights).sum(2)
        score = score.masked_fill(candidates.item_index == 0, -torch.inf)
        return Ranked(score.float(), output.probability.sigmoid().float())

    @torch.inference_mode()
    def item_vectors(self) -> Tensor:
        """Give ``[N + 1, D]`` vectors of the item tower, row 0 zero."""
        return self._item_vectors.decoded()

    @torch.inference_mode()
    def user_vectors(self, user: UserContext) -> Tensor:
        """Give ``[B, D]`` vectors of the user tower."""
        return self.prepare(user).vectors

    @torch.inference_mode()
    def similar(self, item_index: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
        """Give the ``[B, k]`` nearest other available items of ``[B]`` items, and their cosines.

        An item 0 or outside the table has no neighbours: padding, -inf.
        """
        index = self._valid(item_index)
        own = self._item_vectors.local(index)
        cosine = self._item_vectors.scores(own.vectors[own.place])
        cosine.masked_fill_(self._unavailable, -torch.inf)
        cosine[torch.arange(len(index), device=index.device), index] = -torch.inf
        cosine[index == 0] = -torch.inf
        value, nearest = best(cosine, min(k, self.num_items))
        return nearest.masked_fill(value == -torch.inf, 0).to(torch.int32), value

    @torch.inference_mode()
    def _prepare(self, activity: Tensor, as_of_ms: int) -> ResidentItems:
        # A copy: rows of it are written in place.
        own = activity.to(self._item_vectors.device, torch.float32, copy=True)
        vectors, num_first = self._item_vectors.decoded(), self.created.num_items + 1
        # Added items apart: the others' last bits must not depend on how many there are.
        half = self._ranker.item_half(own[:num_first], vectors[:num_first])
        if len(own) > num_first:
            rows = torch.arange(num_first, len(own), device=own.device)
            half = joined(half, self._ranker.items_at(own[rows], vectors[rows], rows))
        return ResidentItems(own, half, as_of_ms, room=self._room - len(self.created))

    def _user_vectors(self, user: UserContext) -> Tensor:
        """Run the user tower over the vectors of its history alone, where they must be decoded."""
        local = self._item_vectors.local(user["history_index"])
        attention = self._item_attention.rows
        if local.row is not None:
            user = {**user, "history_index": local.place}
            attention = attention[local.row]
        vectors: Tensor = self._towers.users(user, local.vectors, attention)
        return vectors

    def _on_device(self, user: UserContext) -> UserContext:
        device = self._item_vectors.device
        return {
            name: tensor.to(device, non_blocking=True) if tensor.device != device else tensor
            for name, tensor in user.items()
        }

    def _valid(self, index: Tensor) -> Tensor:
        """Rows outside the table become padding: a client may know a newer vocabulary."""
        index = index.to(self._item_vectors.device).long()
        return torch.where((index > 0) & (index <= self.num_items), index, 0)

    def _source_inputs(self, user: Prepared) -> SourceInputs:
        """Give those of ``user``, made anew where the items' features have moved meanwhile."""
        activity, changes = self._resident.activity, self._resident.changes
        if (
            user.inputs is None
            or user.inputs.item_activity is not activity
            or user.inputs_version != changes.version
        ):
            # A plain dictionary: ``user`` itself would make a ring that only the collector frees.
            user.inputs = SourceInputs(
                user=dict(user), user_vectors=user.vectors, item_vectors=self._item_vectors,
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
        if filters is None or not bool(filters.any()):
            return ()
        if self._item_filters is None:
            raise InputError(
                "filters were asked for of a model that was loaded without its items' tokens; "
                "load it with load_serving_model", field="filters",
            )  # fmt: skip
        return self._item_filters.of(filters)
