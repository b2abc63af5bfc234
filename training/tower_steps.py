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
        self._first_seen_ms = prepared.first_seen_ms.to(world.device)
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
        moment_ms = self._prepared.visit_moment_ms[rows].to(device)
        cold = self._towers.items.as_newcomers() if self._towers.learns_newcomers else None
        if self._config.softmax == "full":
            every_item = torch.arange(len(items), device=device)
            logits = self._logits(users, items, cold, every_item, moment_ms)
            absent = torch.ones(len(items), dtype=torch.bool, device=device)
            absent[self._known] = False
            absent = absent | self._is_unborn(every_item, moment_ms)
            absent = absent.scatter(1, every, False)
            absent[:, 0] = True
            loss = full_softmax(logits.masked_fill(absent, -1e9), chosen, weight)
        else:
            loss = self._sampled(users, items, cold, every, chosen, weight, moment_ms, generator)
        return loss * self._world.share(weight)

    def _logits(
        self, users: Tensor, items: Tensor, cold: Tensor | None, index: Tensor, moment_ms: Tensor
    ) -> Tensor:
        """Give ``[B, M]`` logits of items ``[M]`` for every visit, or ``[B, P]`` of its own ones.

        An item that had only just appeared by the visit is met as a newcomer (``cold``): it had no
        embedding of its own then.
        """

        def cosine(vectors: Tensor) -> Tensor:
            found = F.embedding(index, vectors)
            return (users.unsqueeze(1) * found).sum(2) if index.dim() == 2 else users @ found.T

        logits = cosine(items)
        if cold is not None:
            is_new = self._first_seen_ms[index] > moment_ms.unsqueeze(1) - self._config.newcomer_ms
            logits = torch.where(is_new, cosine(cold), logits)
        return logits / self._towers.temperature

    def _is_unborn(self, index: Tensor, moment_ms: Tensor) -> Tensor:
        """Tell ``[B, M]`` which items ``[M]`` appeared only after the visit: nobody could take
        them, so they are no negatives of it."""  # fmt: skip
        return self._first_seen_ms[index] > moment_ms.unsqueeze(1)

    def _sampled(
        self,
        users: Tensor,
        items: Tensor,
        cold: Tensor | None,
        every: Tensor,
        chosen: Tensor,
        weight: Tensor,
        moment_ms: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        num_known, num_uniform = len(self._known), self._config.uniform_negatives
        in_batch = self._world.gathered(chosen[chosen != 0])
        drawn = torch.randint(num_known, (num_uniform,), generator=generator)
        pool = torch.cat([in_batch, self._known[drawn.to(chosen.device)]])
        expected = len(in_batch) * self._share[pool] + num_uniform / num_known
        own = torch.zeros(len(users), len(items), dtype=torch.bool, device=users.device)
        own.scatter_(1, every, True)
        return sampled_softmax(
            positive_logit=self._logits(users, items, cold, chosen, moment_ms),
            pool_logit=self._logits(users, items, cold, pool, moment_ms),
            pool_log_q=expected.log(),
            own_positive=own[:, pool] | self._is_unborn(pool, moment_ms),
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
