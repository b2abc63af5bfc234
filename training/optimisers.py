"""What turns gradients into new weights: fused AdamW, and another for tables that are looked up.

One learning-rate cycle over all steps drives each of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SparseAdam
from torch.optim.lr_scheduler import OneCycleLR

from recsys.errors import ConfigurationError
from training.engine import Engine
from training.row_wise_adagrad import RowWiseAdagrad
from training.sharded_tables import lookup_tables
from training.world import is_spread


class Optimisers:
    """One optimiser for each kind of gradient, stepped together."""

    def __init__(
        self,
        module: nn.Module,
        engine: Engine,
        *,
        learning_rate: float,
        weight_decay: float,
        num_steps: int,
    ) -> None:
        """Take the parameters of ``module``; tables turn sparse here when ``engine`` says so.

        Raises:
            ConfigurationError: when ``engine`` wants both sparse gradients and clipping, whose norm
                torch does not have for them.
        """
        sparse = _sparse_tables(module) if engine.sparse_tables else []
        if sparse and engine.clip_norm > 0:
            raise ConfigurationError(
                "engine.sparse_tables and engine.clip_norm cannot go together (sparse gradients "
                f"have no norm in torch), found clip_norm {engine.clip_norm}; set one of them to 0"
            )
        apart = {id(p) for p in sparse}
        dense = [p for p in module.parameters() if p.requires_grad and id(p) not in apart]
        self._parameters = dense
        self._clip_norm = engine.clip_norm
        # Rows spread over workers are one tensor among others to the loop over tensors only.
        fused = not any(is_spread(p) for p in dense)
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(dense, lr=learning_rate, weight_decay=weight_decay, fused=fused)
        ]
        rates = [learning_rate]
        if sparse:
            rates.append(engine.table_learning_rate or learning_rate)
            kind = RowWiseAdagrad if engine.table_optimiser == "row_wise_adagrad" else SparseAdam
            self._all.append(kind(sparse, lr=rates[-1]))
        # Those of tables have no momentum setting to cycle that would be called the same.
        self._schedules = [
            OneCycleLR(
                one, max_lr=rate, total_steps=max(num_steps, 1) + 1,
                cycle_momentum=isinstance(one, torch.optim.AdamW),
            )
            for one, rate in zip(self._all, rates, strict=True)
        ]  # fmt: skip

    @property
    def all(self) -> list[torch.optim.Optimizer]:
        """Each of them."""
        return self._all

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for one in self._all:
            one.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Change the weights by the gradients they have, and the learning rate by its schedule."""
        if self._clip_norm > 0:
            _clip(self._parameters, self._clip_norm)
        for one, schedule in zip(self._all, self._schedules, strict=True):
            one.step()
            schedule.step()

    def schedule_state(self) -> list[dict[str, Any]]:
        """Give where each cycle is."""
        return [schedule.state_dict() for schedule in self._schedules]

    def load_schedule_state(self, state: list[dict[str, Any]]) -> None:
        """Go on where ``schedule_state`` was."""
        for schedule, found in zip(self._schedules, state, strict=True):
            schedule.load_state_dict(found)


def _clip(parameters: list[nn.Parameter], longest: float) -> None:
    """Shorten the gradient, all parameters together; torch does not mix spread ones and others."""
    spread = [p for p in parameters if p.grad is not None and is_spread(p)]
    whole = [p for p in parameters if p.grad is not None and not is_spread(p)]
    norm = nn.utils.get_total_norm([p.grad for p in whole])
    if spread:
        of_tables = nn.utils.get_total_norm([p.grad for p in spread]).full_tensor()
        norm = torch.hypot(norm, of_tables)
        nn.utils.clip_grads_with_norm_(spread, longest, norm, foreach=False)
    nn.utils.clip_grads_with_norm_(whole, longest, norm)


def _sparse_tables(module: nn.Module) -> list[nn.Parameter]:
    """Give the weights of tables that are only looked up, and let their gradients be sparse."""
    found: list[nn.Parameter] = []
    for _, table in lookup_tables(module):
        if table.weight.requires_grad and not is_spread(table.weight):
            table.sparse = True
            found.append(table.weight)
    return found
