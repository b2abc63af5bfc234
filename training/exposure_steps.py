"""A ranker trained on exposures: cross-entropy of each, and the order among those of a group.

Axes: ``L`` lists, ``C`` places, ``P`` places of all lists, ``O`` objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.grouped_softmax import grouped_softmax
from recsys.models.ranker import Ranker, RankerOutput
from training.exposures import Exposures
from training.loop import Phase
from training.world import World

_CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class ExposureTraining:
    """How a ranker learns from exposures."""

    epochs: int = 3
    """Passes over the exposures."""
    batch_groups: int = 256
    """Groups in a step, over all workers."""
    learning_rate: float = 3e-3
    """Peak; one cycle over all steps."""
    weight_decay: float = 1e-2
    """AdamW's."""
    listwise_share: float = 0.2
    """Weight of the order within a group beside the cross-entropy."""
    objective_shares: tuple[float, ...] = (1.0, 1.0, 0.3)
    """Weight of each objective's losses, in their order."""
    zero_start: bool = False
    """Whether the ranker begins without an order of its own (``Ranker.start_at_zero``)."""


class ExposureSteps:
    """Draws batches of groups and gives their loss."""

    def __init__(
        self,
        ranker: Ranker,
        exposures: Exposures,
        group: Tensor,
        config: ExposureTraining,
        world: World,
    ) -> None:
        """Take the lists to learn from; ``group`` ``[L]`` says which are compared."""
        order = group.argsort(stable=True)
        self._exposures = exposures.take(order)
        _, size = torch.unique_consecutive(group[order], return_counts=True)
        self._bounds = torch.cat([torch.zeros(1, dtype=torch.int64), size.cumsum(0)])
        self._ranker, self._config, self._world = ranker, config, world
        self._share = torch.tensor(config.objective_shares, device=world.device)
        fit_scales(ranker, exposures)
        if config.zero_start:
            ranker.start_at_zero()

    def phase(self, name: str) -> Phase:
        """Give the phase that trains the ranker on these lists."""
        config = self._config
        return Phase(
            name=name, module=self._ranker, batches=self._batches, loss=self._loss,
            epochs=config.epochs, learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
        )  # fmt: skip

    def _batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        num_groups = len(self._bounds) - 1
        return torch.randperm(num_groups, generator=generator).split(self._config.batch_groups)

    def _loss(self, groups: Tensor, generator: torch.Generator) -> Tensor:
        del generator  # nothing is drawn but dropout
        groups = groups[self._world.rank :: self._world.size]
        begin, size = self._bounds[groups], self._bounds[groups + 1] - self._bounds[groups]
        group = torch.repeat_interleave(torch.arange(len(groups)), size)
        within = torch.arange(len(group)) - (size.cumsum(0) - size)[group]
        rows = self._exposures.take(begin[group] + within)
        output = scored(self._ranker, rows, self._world.device, with_position=True)
        is_item = (rows.item != 0).to(self._world.device)
        label = rows.label.to(self._world.device)[is_item]
        place_group = group.unsqueeze(1).expand_as(rows.item).to(self._world.device)[is_item]
        share = self._share[: label.shape[1]]
        cross_entropy = F.binary_cross_entropy_with_logits(
            output.probability[is_item], label, reduction="none"
        ).mean(dim=0)
        order = grouped_softmax(output.order[is_item], label, place_group, len(groups))
        loss = ((cross_entropy + self._config.listwise_share * order) * share).sum()
        return loss * self._world.share(is_item.float())


@torch.no_grad()
def fit_scales(ranker: Ranker, exposures: Exposures) -> None:
    """Standardise inputs, count places, and begin the probabilities at the rates of the lists."""
    device = ranker.table.price.device
    is_item = exposures.item != 0
    ranker.user_dense.fit(exposures.context["user_dense"].to(device))
    ranker.item_dense.fit(exposures.activity[is_item].to(device))
    if ranker.config.user_rates:
        ranker.user_rates.fit(exposures.context["user_dense"].to(device))
    if ranker.config.item_rates:
        ranker.item_rates.fit(exposures.activity[is_item].to(device))
    ranker.cross_scale.fit(exposures.cross[is_item].to(device))
    if ranker.config.num_positions:
        ranker.position.fit(exposures.position.to(device))
    rate = exposures.label[is_item].mean(dim=0).clamp(1e-6, 1 - 1e-6)
    ranker.start_probabilities_at(rate.to(device))


def scored(
    ranker: Ranker, rows: Exposures, device: torch.device, *, with_position: bool
) -> RankerOutput:
    """Score the places of some lists, each item as it was just before its list.

    ``with_position``: as displayed (training); otherwise as served.
    """
    num_lists, num_places = rows.item.shape
    item = rows.item.to(device)
    vectors = torch.zeros(ranker.table.num_items + 1, 0, device=device)
    items = ranker.item_half(
        rows.activity.flatten(0, 1).to(device), vectors, item.reshape(-1)
    )  # fmt: skip
    user = {name: values.to(device) for name, values in rows.context.items()}
    half = ranker.user_half(user, torch.zeros(num_lists, 0, device=device), items)
    place = torch.arange(num_lists * num_places, device=device).view(num_lists, num_places)
    return ranker.combine(
        half, items, place, rows.cross.to(device), item_index=item,
        position=rows.position.to(device) if with_position else None,
    )  # fmt: skip


@torch.inference_mode()
def scores_of(ranker: Ranker, exposures: Exposures, *, with_position: bool = False) -> RankerOutput:
    """Score all places of all lists, in chunks, on the CPU."""
    ranker.eval()
    device = ranker.table.price.device
    parts = [
        scored(ranker, exposures.take(rows), device, with_position=with_position)
        for rows in torch.arange(len(exposures)).split(_CHUNK)
    ]
    return RankerOutput(
        torch.cat([part.order for part in parts]).cpu(),
        torch.cat([part.probability for part in parts]).cpu(),
    )


@torch.no_grad()
def calibrate(ranker: Ranker, held_out: Exposures) -> None:
    """Fit the ranker's calibration to lists it did not learn from, as they are served."""
    is_item = held_out.item != 0
    logits = scores_of(ranker, held_out).probability[is_item]
    ranker.calibration.fit(logits.clone(), held_out.label[is_item])
