"""A step of the towers: visits in, loss out.

Axes: ``B`` visits, ``P`` positives, ``M`` pool of negatives, ``N`` items.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.losses import full_softmax, sampled_softmax
from recsys.models.two_tower import TwoTower
from training.examples.stream import VisitBatch, VisitBatches, VisitSelection
from training.loop import Phase, World
from training.prepared import Prepared
from training.recipes import TowerTraining


class TowerSteps:
    """Draws batches of visits and their loss."""

    def __init__(
        self, prepared: Prepared, towers: TwoTower, visits: VisitSelection, counts: Tensor,
        world: World, held_out: VisitSelection | None = None,
    ) -> None:  # fmt: skip
        """Take the visits to learn from and ``[N + 1]`` counts in the same time.

        ``held_out``: later visits, whose loss says when to stop.
        """
        self._held_out = held_out
        self._towers = towers
        self._config: TowerTraining = prepared.recipe.towers
        self._visits = visits
        self._world = world
        self._known = _known_items(prepared, visits).to(world.device)
        self._first_seen_ms = prepared.first_seen_ms.to(world.device)
        self._share = (counts / counts.sum().clamp(min=1)).float().to(world.device)

    def phase(self, name: str, epochs: int) -> Phase:
        """Give the phase that trains the towers on these visits."""
        return Phase(
            name=name, module=self._towers, batches=self._batches, loss=self._loss, epochs=epochs,
            learning_rate=self._config.learning_rate, weight_decay=self._config.weight_decay,
            validate=self._validation_loss if self._held_out else None,
        )  # fmt: skip

    def _validation_loss(self) -> float:
        """Give the mean loss of the visits held out, with the same draws every time."""
        assert self._held_out is not None
        generator = torch.Generator().manual_seed(0)
        total = torch.zeros((), dtype=torch.float64, device=self._world.device)
        rows = 0
        for batch in self._held_out.batches(
            self._config.batch_visits, None, least=self._world.size
        ):
            total += self._loss(batch, generator) * len(batch)
            rows += len(batch)
        return float(total) / max(rows, 1)

    def _batches(self, generator: torch.Generator) -> VisitBatches:
        return self._visits.batches(self._config.batch_visits, generator, least=self._world.size)

    def _loss(self, batch: VisitBatch, generator: torch.Generator) -> Tensor:
        own, device = slice(self._world.rank, None, self._world.size), self._world.device
        context = {k: v[own].to(device) for k, v in batch.context.items()}
        users, items = self._towers(context)
        # Drawn for the whole batch on every worker: their number changes nothing.
        every = batch.positives
        chosen = _draw_columns(every, self._config.positives_per_visit, generator)
        every, chosen = every[own].to(device), chosen[own].to(device)
        had = (chosen.unsqueeze(2) == context["history_index"].unsqueeze(1)).any(dim=2)
        weight = torch.where(had, self._config.repeat_weight, 1.0) * (chosen != 0)
        moment_ms = batch.moment_ms[own].to(device)
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


def _known_items(prepared: Prepared, visits: VisitSelection) -> Tensor:
    """Give the items that were on offer in the time of ``visits``.

    Only these are negatives. An item that comes later has no visit in which it could have been
    taken, so as a negative it would teach that new things, and whatever reads like them, are
    never wanted.
    """
    until_ms = prepared.split.test_from_ms if visits.until_ms is None else visits.until_ms
    known = prepared.first_seen_ms < until_ms
    # A visit that began just before may have taken what came just after.
    known |= visits.taken(len(known))
    known[0] = False
    return known.nonzero().flatten()


def _draw_columns(values: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Give ``width`` non-zero entries of each row, drawn without repetition; 0 pads."""
    if values.shape[1] <= width:
        return values
    key = torch.rand(values.shape, generator=generator).masked_fill(values == 0, -1.0)
    return values.gather(1, key.topk(width, dim=1).indices)
