"""What a serving model keeps of each item, and how that changes while it serves.

Vectors, availability, moving features, the ranker's item half and the tokens of filters. Everything
that moves is written here; ``serving.py`` reads it.

Axes: ``N`` items (row 0 is padding), ``M`` items given, ``Fi`` moving features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.compression.item_vectors import ItemVectors
from recsys.errors import InputError
from recsys.models.created_items import CreatedItems
from recsys.models.growing_rows import GrowingRows
from recsys.models.item_table import ItemStatics, log_price
from recsys.models.ranker import Ranker
from recsys.models.resident_items import ResidentItems, joined
from recsys.models.two_tower import TwoTower
from recsys.retrieval.item_filter import ItemFilters
from recsys.retrieval.source import CandidateSource, FollowsVectors

if TYPE_CHECKING:
    from recsys.retrieval.live_index import Fold, LiveIndex  # faiss, where there is one

_MOST_WITHDRAWN = 256
"""Withdrawn before an index is told: until then they are left out of what it finds."""


class ServedItems:
    """The items of one loaded bundle. Nothing may be asked of its model while something changes,
    except by ``set_activity``, which is one assignment."""

    def __init__(
        self,
        *,
        towers: TwoTower,
        ranker: Ranker,
        sources: Sequence[CandidateSource],
        vectors: ItemVectors,
        available: Tensor,
        activity: Tensor,
        activity_as_of_ms: int,
        filters: ItemFilters | None,
        room: int,
    ) -> None:
        """Take what ``TorchServingModel`` is given, and compute what depends on items alone."""
        self.vectors = vectors
        self.filters = filters
        self.created = CreatedItems(len(available) - 1)
        """Items that were added since the bundle was made, by key."""
        self._towers, self._ranker, self._room = towers, ranker, room
        self._sources = sources
        self._num_features = activity.shape[1]
        self._availability = [
            GrowingRows(some.clone(), room=room) for some in (available, ~available)
        ]
        self._take_availability()
        self._num_withdrawn = 0
        """Since sources last saw another tensor of unavailable items; they may keep what they made
        of it, and look by themselves whether what they found has been withdrawn since."""
        with torch.inference_mode():
            attention = towers.users.item_attention(vectors.decoded())
            self._attention = GrowingRows(attention, room=room)
            self._log_price = GrowingRows(ranker.table.log_price(), room=room)
        ranker.table.make_room(room)
        vectors.make_room(room)
        self._resident = self._prepare(activity, activity_as_of_ms)

    def __len__(self) -> int:
        """Give N, those that were added included, padding not counted."""
        return len(self._available) - 1

    @property
    def resident(self) -> ResidentItems:
        """What ranking reads. Take it once for a call: another thread may swap it."""
        return self._resident

    @property
    def unavailable(self) -> Tensor:
        """``[N + 1]`` bool; another tensor where sources should look at it anew."""
        return self._unavailable

    @property
    def attention(self) -> Tensor:
        """``[N + 1, ...]``: the user tower's attention of items."""
        return self._attention.rows

    @property
    def log_price(self) -> Tensor:
        """``[N + 1]`` float32."""
        return self._log_price.rows

    def valid(self, index: Tensor) -> Tensor:
        """Rows outside the table become padding: a client may know a newer vocabulary."""
        if index.device.type == "cpu" and index.numel():
            rows = index.numpy()  # looked at is sooner done than replaced
            if rows.min() >= 0 and rows.max() <= len(self):
                return index.to(self.vectors.device).long()
        index = index.to(self.vectors.device).long()
        return torch.where((index > 0) & (index <= len(self)), index, 0)

    def activity_of(self, item_index: Tensor) -> Tensor:
        """Give ``[B, C, Fi]`` moving features of items ``[B, C]``, as ranking sees them now."""
        return F.embedding(self.valid(item_index), self._resident.activity)

    @property
    def activity_as_of_ms(self) -> int:
        """When the resident moving features were true."""
        return self._resident.as_of_ms

    def set_activity(self, activity: Tensor, as_of_ms: int) -> None:
        """Swap in ``[M + 1, Fi]`` moving features of the first M items: one assignment, so a reader
        in another thread sees the old ones or the new ones. M is N, or less by items that were
        added since they were read, which keep what they have.

        Raises:
            InputError: when the shape is another.
        """  # fmt: skip
        most, least = (len(self) + 1, self._num_features), self.created.num_items + 1
        if activity.dim() != 2 or activity.shape[1] != most[1] or (
            not least <= len(activity) <= most[0]
        ):  # fmt: skip
            raise InputError(f"item activity has shape {tuple(activity.shape)}, wanted {most}")
        later = self._resident.activity[len(activity) :]
        if len(later):
            activity = torch.cat([activity.to(later), later])
        self._resident = self._prepare(activity, as_of_ms)

    @torch.inference_mode()
    def change_activity(self, item_index: Tensor, activity: Tensor) -> None:
        """Write ``[M, Fi]`` moving features of distinct items ``[M]`` in place.

        Raises:
            InputError: when a row is not in the table, or the shapes do not fit.
        """
        rows = item_index.to(self.vectors.device).long()
        wanted = (len(rows), self._num_features)
        if tuple(activity.shape) != wanted:
            raise InputError(f"item activity has shape {tuple(activity.shape)}, wanted {wanted}")
        if not len(rows):
            return
        if not 1 <= int(rows.min()) <= int(rows.max()) <= len(self):
            raise InputError(
                f"item activity: wanted rows 1 to {len(self)}, found {int(rows.min())} to "
                f"{int(rows.max())}"
            )
        activity = activity.to(rows.device, torch.float32)
        local = self.vectors.local(rows)
        projected, factors = self._ranker.item_rows(activity, local.vectors[local.place], rows)
        resident = self._resident
        resident.activity[rows] = activity
        resident.half.projected[rows] = projected
        resident.half.factors[rows] = factors
        resident.changes.add(rows)

    def confirm_activity(self, as_of_ms: int) -> None:
        """Say that the resident moving features are those of ``as_of_ms``, as they stand."""
        self._resident.as_of_ms = as_of_ms

    def set_available(self, available: Tensor) -> None:
        """Swap in ``[N + 1]`` bool: which items may be retrieved (row 0 never is).

        Raises:
            InputError: when the shape is not the resident one.
        """
        if tuple(available.shape) != tuple(self._available.shape):
            raise InputError(
                f"availability has shape {tuple(available.shape)}, wanted {(len(self) + 1,)}"
            )
        self._available.copy_(available)
        self._available[0] = False
        torch.logical_not(self._available, out=self._unavailable)
        self._resident.changes.add_all()
        self._see_unavailable_anew()

    @torch.inference_mode()
    def change(
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
        if tokens and self.filters is not None:
            self.filters.change(tokens)

    @torch.inference_mode()
    def put(self, item_index: Sequence[int], statics: ItemStatics) -> None:
        """Describe the items ``[M]`` anew: vectors and halves are computed again, in place."""
        device = self.vectors.device
        index = torch.tensor(item_index, dtype=torch.int64, device=device)
        follow = [source for source in self._sources if isinstance(source, FollowsVectors)]
        for source in follow:
            source.before_moving(self.vectors)
        self._ranker.table.put(index, statics)
        self.vectors.put(index, self._towers.items.at(index))
        vectors = self.vectors.local(index)
        rows = vectors.vectors[vectors.place]
        self._attention.put(index, self._towers.users.item_attention(rows))
        self._log_price.put(index, log_price(self._ranker.table.price[index]))
        known = self._resident.activity
        activity = torch.zeros(len(index), known.shape[1], device=device)
        activity[index < len(known)] = known[index[index < len(known)]]
        self._resident.put(index, activity, self._ranker.items_at(activity, rows, index))
        for source in follow:
            source.moved(index)

    @torch.inference_mode()
    def add(self, keys: Sequence[int], statics: ItemStatics) -> list[int]:
        """Add items by key and give their rows, the next ones; not offered yet, without activity.

        Raises:
            InputError: when there is no room for so many.
        """
        if len(self.created) + len(keys) > self._room:
            raise InputError(
                f"wanted room for {len(keys)} more items, found {len(self.created)} of at most "
                f"{self._room} taken; train and publish a bundle that knows them"
            )
        first = len(self) + 1
        rows = list(range(first, first + len(keys)))
        self.put(rows, statics)
        for some, is_so in zip(self._availability, (False, True), strict=True):
            index = torch.tensor(rows, device=some.rows.device)
            some.put(index, torch.full((len(rows),), is_so, device=some.rows.device))
        self._take_availability()
        if self.filters is not None:
            self.filters.grow(len(self._available))
        for key in keys:
            self.created.add(key)
        return rows

    def describes(self, item_index: int, statics: ItemStatics, place: int) -> bool:
        """Say whether the item is already described as ``statics`` says at ``place``."""
        return self._ranker.table.says(item_index, statics, place)

    @property
    def live_indexes(self) -> list[LiveIndex]:
        """Indexes of sources, beside which items gather that came or changed."""
        found = [getattr(source, "index", None) for source in self._sources]
        return [index for index in found if index is not None]

    @torch.inference_mode()
    def fold(self, index: LiveIndex) -> Fold:
        """Say what goes into the index that comes after ``index``, one of ``live_indexes``."""
        return index.fold(self.vectors)

    def _take_availability(self) -> None:
        self._available, self._unavailable = (some.rows for some in self._availability)

    def _see_unavailable_anew(self) -> None:
        """Make sources look again that keep something for as long as this is the same tensor."""
        self._unavailable = self._unavailable[:]
        self._num_withdrawn = 0

    @torch.inference_mode()
    def _prepare(self, activity: Tensor, as_of_ms: int) -> ResidentItems:
        # A copy: rows of it are written in place.
        own = activity.to(self.vectors.device, torch.float32, copy=True)
        vectors, num_first = self.vectors.decoded(), self.created.num_items + 1
        # Added items apart: the others' last bits must not depend on how many there are.
        half = self._ranker.item_half(own[:num_first], vectors[:num_first])
        if len(own) > num_first:
            rows = torch.arange(num_first, len(own), device=own.device)
            half = joined(half, self._ranker.items_at(own[rows], vectors[rows], rows))
        return ResidentItems(own, half, as_of_ms, room=self._room - len(self.created))
