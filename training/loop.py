"""The training loop, plain PyTorch: epochs of steps, one cycle of the learning rate, checkpoints.

Each epoch seeds itself from the run's seed, the phase and its number, so a run that was killed and
resumed after any epoch goes on exactly as if it had not been: no generator state to save, and data
order, negatives and dropout are the same.

Several workers: each takes its share of every batch and gradients are averaged by hand (one flat
``all_reduce``), which works for any module and any backend torch has.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

State = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class World:
    """This worker among its peers."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class Checkpoints(Protocol):
    """Where a run's state is kept between epochs."""

    def latest(self) -> State | None:
        """Give the newest whole state; None at the beginning."""

    def save(self, state: State, metrics: dict[str, float]) -> None:
        """Keep a state. Called by every worker; only rank 0's state matters."""


class NoCheckpoints:
    """Keeps nothing."""

    def latest(self) -> State | None:
        """Give None."""
        return None

    def save(self, state: State, metrics: dict[str, float]) -> None:
        """Forget the state."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One module, trained for some epochs."""

    name: str
    module: nn.Module
    batches: Callable[[torch.Generator], Sequence[Any]]
    """Gives an epoch's batches, shuffled by the generator; the same number every epoch."""
    loss: Callable[[Any, torch.Generator], Tensor]
    """Gives the loss of this worker's share of a batch."""
    epochs: int
    learning_rate: float
    weight_decay: float


class Run:
    """Phases one after the other, resumable after every epoch."""

    def __init__(
        self,
        *,
        seed: int,
        world: World,
        checkpoints: Checkpoints,
        on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
    ) -> None:
        """Take up the newest checkpoint, if there is one.

        ``on_epoch(phase, epoch, epochs, loss)`` is told of each finished epoch.
        """
        self._seed = seed
        self._world = world
        self._checkpoints = checkpoints
        self._on_epoch = on_epoch
        found = checkpoints.latest()
        self._done: dict[str, State] = found["done"] if found else {}
        """Weights of finished phases by name."""
        self._current: State | None = found["current"] if found else None
        self.curve: list[tuple[str, int, float]] = found["curve"] if found else []
        """``(phase, epoch, mean loss)``."""

    def train(self, phase: Phase) -> None:
        """Train a phase's module, or put the weights back that an earlier run left."""
        if phase.name in self._done:
            phase.module.load_state_dict(self._done[phase.name])
            return
        optimiser = torch.optim.AdamW(
            phase.module.parameters(), lr=phase.learning_rate, weight_decay=phase.weight_decay
        )
        steps = len(phase.batches(self._generator(phase.name, 0)))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=phase.learning_rate, total_steps=max(steps * phase.epochs, 1) + 1
        )
        first = 0
        if self._current is not None and self._current["phase"] == phase.name:
            phase.module.load_state_dict(self._current["module"])
            optimiser.load_state_dict(self._current["optimiser"])
            schedule.load_state_dict(self._current["schedule"])
            first = self._current["epoch"] + 1
        for epoch in range(first, phase.epochs):
            loss = self._epoch(phase, epoch, optimiser, schedule)
            self.curve.append((phase.name, epoch, loss))
            self._on_epoch(phase.name, epoch, phase.epochs, loss)
            is_last = epoch + 1 == phase.epochs
            weights = {k: v.detach().cpu().clone() for k, v in phase.module.state_dict().items()}
            if is_last:
                self._done[phase.name] = weights
                self._current = None
            else:
                self._current = {
                    "phase": phase.name, "epoch": epoch, "module": weights,
                    "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                }  # fmt: skip
            state = {"done": self._done, "current": self._current, "curve": self.curve}
            self._checkpoints.save(state, {"loss": loss, "epoch": float(epoch)})

    def _epoch(
        self,
        phase: Phase,
        epoch: int,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> float:
        phase.module.train()
        # All workers draw the same batches and then their own dropout and negatives.
        batches = phase.batches(self._generator(phase.name, epoch))
        own = self._generator(phase.name, epoch, self._world.rank + 1)
        torch.manual_seed(own.initial_seed())
        total = 0.0
        for batch in batches:
            optimiser.zero_grad(set_to_none=True)
            loss = phase.loss(batch, own)
            loss.backward()
            self._average_gradients(phase.module)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        phase.module.eval()
        return self._mean(total / max(len(batches), 1))

    def _average_gradients(self, module: nn.Module) -> None:
        if self._world.size == 1:
            return
        parameters = [p for p in module.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self._world.size
        for parameter, part in zip(
            parameters, flat.split([p.numel() for p in parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter)

    def _mean(self, value: float) -> float:
        if self._world.size == 1:
            return value
        shared = torch.tensor([value], device=self._world.device)
        dist.all_reduce(shared)
        return float(shared) / self._world.size

    def _generator(self, *of: object) -> torch.Generator:
        seed = zlib.crc32(repr((self._seed, *of)).encode())
        return torch.Generator().manual_seed(seed)
