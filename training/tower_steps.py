"""A step of the towers: visits in, loss out.

Axes: ``B`` visits, ``P`` positives, ``M`` pool of negatives, ``N`` items.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.losses import full_softmax, sampled_softmax
from recsys.models.two_tower import TwoTower
from training.loop import Phase, World
from training.prepared import Prepared
from training.recipes import TowerTraining


class TowerSteps:
    """Draws batches of visits and their loss."""

    def __init__(
        self, prepared: Prepared, towers: TwoTower, rows: Tensor, counts: Tensor, world: World
    ) -> None:
        """Take the visits to learn from (``rows``) and ``[N + 1]`` counts in the same time."""
        self._prepared = prepared
        self._towers = towers
        self._config: TowerTraining = prepared.recipe.towers
        self._rows = rows
        self._world = world
        self._known = _known_items(prepared, rows).to(world.device)
        self._share = (counts / counts.sum().clamp(min=1)).float().to(world.device)

    def phase(self, name: str, epochs: int) -> Phase:
        """Give the phase that trains the towers on these visits."""
        return Phase(
            name=name, module=self._towers, batches=self._batches, loss=self._loss, epochs=epochs,
            learning_rate=self._config.learning_rate, weight_decay=self._config.weight_decay,
        )  # fmt: skip

    def _batches(self, generator: torch.Generator) -> list[Tensor]:
        order = self._rows[torch.randperm(len(self._rows), generator=generator)]
        batches = list(order.split(self._config.batch_visits))
        if len(batches) > 1 and len(batches[-1]) < self._world.size:
            batches.pop()
        return batches

    def _loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        own = slice(self._world.rank, None, self._world.size)
        rows, device = batch[own], self._world.device
        context = {k: v[rows].to(device) for k, v in self._prepared.visit_context.items()}
        users, items = self._towers(context)
        # Drawn for the whole batch on every worker: their number changes nothing.
        every = self._prepared.visit_positives.padded(batch)
        chosen = _draw_columns(every, self._config.positives_per_visit, generator)
        every, chosen = every[own].to(device), chosen[own].to(device)
        had = (chosen.unsqueeze(2) == context["history_index"].unsqueeze(1)).any(dim=2)
        weight = torch.where(had, self._config.repeat_weight, 1.0) * (chosen != 0)
        if self._config.softmax == "full":
            logits = users @ items.T / self._towers.temperature
            unknown = torch.ones(len(items), dtype=torch.bool, device=device)
            unknown[self._known] = False
            loss = full_softmax(logits.masked_fill(unknown, -1e9), chosen, weight)
        else:
            loss = self._sampled(users, items, every, chosen, weight, generator)
        return loss * self._world.share(weight)

    def _sampled(
        self,
        users: Tensor,
        items: Tensor,
        every: Tensor,
        chosen: Tensor,
        weight: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        num_known, num_uniform = len(self._known), self._config.uniform_negatives
        in_batch = self._world.gathered(chosen[chosen != 0])
        drawn = torch.randint(num_known, (num_uniform,), generator=generator)
        pool = torch.cat([in_batch, self._known[drawn.to(chosen.device)]])
        expected = len(in_batch) * self._share[pool] + num_uniform / num_known
        own = torch.zeros(len(users), len(items), dtype=torch.bool, device=users.device)
        own.scatter_(1, every, True)
        temperature = self._towers.temperature
        return sampled_softmax(
            positive_logit=(users.unsqueeze(1) * F.embedding(chosen, items)).sum(2) / temperature,
            pool_logit=users @ F.embedding(pool, items).T / temperature,
            pool_log_q=expected.log(),
            own_positive=own[:, pool],
            weight=weight,
        )


def _known_items(prepared: Prepared, rows: Tensor) -> Tensor:
    """Give the items that were on offer in the time of the visits ``rows``.

    Only these are negatives. An item that comes later has no visit in which it could have been
    taken, so as a negative it would teach that new things, and whatever reads like them, are
    never wanted.
    """
    split, positives = prepared.split, prepared.visit_positives
    in_rows = torch.zeros(len(positives.offsets) - 1, dtype=torch.bool)
    in_rows[rows] = True
    is_early = bool(prepared.visit_is_early[rows].all())
    until_ms = split.ranker_from_ms if is_early else split.test_from_ms
    known = prepared.first_seen_ms < until_ms
    # A visit that began just before may have taken what came just after.
    known[positives.values[in_rows.repeat_interleave(positives.offsets.diff())]] = True
    known[0] = False
    return known.nonzero().flatten()


def _draw_columns(values: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Give ``width`` non-zero entries of each row, drawn without repetition; 0 pads."""
    if values.shape[1] <= width:
        return values
    key = torch.rand(values.shape, generator=generator).masked_fill(values == 0, -1.0)
    return values.gather(1, key.topk(width, dim=1).indices)
