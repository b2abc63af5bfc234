"""A step of the next-item model: users in, packed into rows, loss out.

Axes: ``B`` users, ``R`` rows, ``S`` places, ``T`` places to predict, ``M`` negatives, ``N`` items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.features.batch import Int64s, Ragged
from recsys.models.chunked_softmax import chunked_softmax
from recsys.models.losses import binary_cross_entropy, gbce, sampled_softmax
from recsys.models.next_item import NextItemModel
from recsys.models.packing import Packed, pack
from training.leave_one_out.recipe import NextItemRecipe
from training.loop import Phase
from training.world import World


class NextItemSteps:
    """Draws batches of stretches and their loss.

    A user's events are cut into stretches of at most ``max_length`` inputs, from the newest back,
    so that every event but a user's first is predicted once an epoch.
    """

    def __init__(
        self, recipe: NextItemRecipe, model: NextItemModel, events: Ragged, world: World
    ) -> None:
        """``events``: item rows by user, what may be learned from."""
        self._recipe, self._model, self._world = recipe, model, world
        self._item = torch.from_numpy(np.ascontiguousarray(events.values)).long()
        self._begin, self._length = stretches(events.offsets, recipe.model.max_length)
        num_items = len(model.identity.weight) - 1
        counts = np.bincount(events.values, minlength=num_items + 1)
        self._share = torch.from_numpy(counts / max(counts.sum(), 1)).float().to(world.device)

    @property
    def num_targets(self) -> int:
        """T of an epoch."""
        return int(self._length.sum())

    def phase(self, validate: Callable[[], float]) -> Phase:
        """Give the phase that trains the model."""
        recipe = self._recipe
        return Phase(
            name="next item", module=self._model, batches=self._batches, loss=self._loss,
            epochs=recipe.epochs, learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay, validate=validate,
        )  # fmt: skip

    def _batches(self, generator: torch.Generator) -> list[Tensor]:
        order = torch.randperm(len(self._begin), generator=generator)
        batches = list(order.split(self._recipe.batch_users))
        if len(batches) > 1 and len(batches[-1]) < self._world.size:
            batches.pop()
        return batches

    def _loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        own = batch[self._world.rank :: self._world.size].numpy()
        packed = pack(
            self._begin[own], self._length[own], row_length=int(self._length[own].max(initial=1))
        )
        items, target, places = self._tensors(packed)
        vectors = self._model.item_vectors()
        used = places.segment >= 0
        state = self._model(items, places, vectors)[used]
        target = target[used]
        weight = torch.ones(len(target), device=target.device)
        loss = self._of(state, vectors, target, weight, generator)
        return loss * self._world.share(weight)

    def _tensors(self, packed: Packed):  # type: ignore[no-untyped-def]
        device = self._world.device
        places = packed.places.to(device)
        empty = packed.places.segment < 0
        items = self._item[packed.source].masked_fill(empty, 0)
        last = len(self._item) - 1
        target = self._item[(packed.source + 1).clamp(max=last)].masked_fill(empty, 0)
        return items.to(device), target.to(device), places

    def _of(
        self, state: Tensor, vectors: Tensor, target: Tensor, weight: Tensor,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        recipe = self._recipe
        if recipe.loss == "softmax":
            half = recipe.engine.precision == "bfloat16"
            return chunked_softmax(
                state, vectors, target, weight, smoothing=recipe.label_smoothing,
                precision=torch.bfloat16 if half else torch.float32,
            )  # fmt: skip
        num_items = len(vectors) - 1
        positive = (state * F.embedding(target, vectors)).sum(dim=1, keepdim=True)
        if recipe.loss == "sampled_softmax":
            uniform = torch.randint(1, num_items + 1, (recipe.num_negatives,), generator=generator)
            pool = torch.cat([target, uniform.to(target.device)])
            expected = len(target) * self._share[pool] + recipe.num_negatives / num_items
            return sampled_softmax(
                positive_logit=positive,
                pool_logit=state @ F.embedding(pool, vectors).T,
                pool_log_q=expected.log(),
                own_positive=pool.unsqueeze(0) == target.unsqueeze(1),
                weight=weight.unsqueeze(1),
            )
        shape = (len(target), recipe.num_negatives)
        drawn = torch.randint(1, num_items + 1, shape, generator=generator).to(target.device)
        negative = torch.einsum("td,tmd->tm", state, F.embedding(drawn, vectors)).unsqueeze(1)
        if recipe.loss == "gbce":
            return gbce(
                positive, negative, weight.unsqueeze(1), num_items=num_items,
                calibration=recipe.calibration,
            )  # fmt: skip
        return binary_cross_entropy(positive, negative, weight.unsqueeze(1))


def stretches(offsets: Int64s, max_length: int) -> tuple[Int64s, Int64s]:
    """Give begin and number of inputs of each stretch: all events but the last of a user are input
    once, cut from the newest back into at most ``max_length``."""
    begins: list[Int64s] = []
    lengths: list[Int64s] = []
    end, first = offsets[1:] - 1, offsets[:-1]
    while len(end):
        begin = np.maximum(end - max_length, first)
        some = end > begin
        begins.append(begin[some])
        lengths.append((end - begin)[some])
        left = begin > first
        end, first = begin[left], first[left]
    return np.concatenate(begins), np.concatenate(lengths)
