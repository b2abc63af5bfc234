"""The training loop, plain PyTorch: epochs of steps, one cycle of the learning rate, checkpoints.

Each epoch seeds itself from the run's seed, the phase and its number, and each step from its own
number too, so a run that was killed and resumed after any step goes on exactly as if it had not
been: no generator state to save, and data order, negatives and dropout are the same.

Several workers see the same batches, draw the same negatives for them, and take each its share of
the rows; gradients are averaged (``world.py``).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from training.engine import Engine
from training.optimisers import Optimisers
from training.sharded_tables import (
    gather_tables,
    load_module,
    load_optimisers,
    module_state,
    optimiser_states,
    shard_tables,
)
from training.world import World

__all__ = ["Checkpoints", "NoCheckpoints", "Phase", "Run", "State", "World"]

State = dict[str, Any]
_LOOK_AT_CLOCK_EVERY = 20
"""Steps between looks: with several workers each look is a word among all of them."""


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


class Batches(Protocol):
    """An epoch's batches, in order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@runtime_checkable
class Seekable(Protocol):
    """Batches that can begin later without making those before."""

    def starting_at(self, step: int) -> Iterable[Any]:
        """Give the batches from number ``step`` on."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One module, trained for some epochs."""

    name: str
    module: nn.Module
    batches: Callable[[torch.Generator], Batches]
    """Gives an epoch's batches, shuffled by the generator; the same number every epoch."""
    loss: Callable[[Any, torch.Generator], Tensor]
    """Gives the loss of this worker's share of a batch. The generator is the same on every worker:
    what is drawn from it is drawn for the whole batch."""
    epochs: int
    learning_rate: float
    weight_decay: float
    validate: Callable[[], float] | None = None
    """Gives the loss of data that are not learned from; None where there are none."""


class Run:
    """Phases one after the other, resumable after every epoch and within long ones."""

    def __init__(
        self,
        *,
        seed: int,
        world: World,
        checkpoints: Checkpoints,
        engine: Engine | None = None,
        on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
    ) -> None:
        """Take up the newest checkpoint, if there is one.

        ``on_epoch(phase, epoch, epochs, loss)`` is told of each finished epoch.
        """
        self._seed = seed
        self._world = world
        self._checkpoints = checkpoints
        self._engine = engine or Engine()
        self._on_epoch = on_epoch
        found = checkpoints.latest()
        self._done: dict[str, State] = found["done"] if found else {}
        """Weights of finished phases by name."""
        self._current: State | None = found["current"] if found else None
        self.curve: list[tuple[str, int, float]] = found["curve"] if found else []
        """``(phase, epoch, mean loss)``."""
        self._saved_s = time.monotonic()

    def train(self, phase: Phase) -> None:
        """Train a phase's module, or put the weights back that an earlier run left.

        Raises:
            InputError: from the phase's own reading of its data.
            ConfigurationError: when the engine's options do not go together.
        """
        if phase.name in self._done:
            phase.module.load_state_dict(self._done[phase.name])
            return
        _Training(self, phase).run()

    def generator(self, *of: object) -> torch.Generator:
        """Give a generator seeded by the run's seed and what it is for."""
        return torch.Generator().manual_seed(self.seed_of(*of))

    def seed_of(self, *of: object) -> int:
        """Give a seed for something of this run."""
        return zlib.crc32(repr((self._seed, *of)).encode())

    def keep(self, current: State | None, loss: float, epoch: int) -> None:
        """Save where the run is."""
        self._current = current
        state = {"done": self._done, "current": current, "curve": self.curve}
        self._checkpoints.save(state, {"loss": loss, "epoch": float(epoch)})
        self._saved_s = time.monotonic()


class _Training:
    """One phase of one run."""

    def __init__(self, run: Run, phase: Phase) -> None:
        self._run, self._phase, self._world = run, phase, run._world
        self._engine = run._engine
        if self._world.size > 1 and self._engine.shard_tables_mb > 0:
            shard_tables(phase.module, self._world, larger_than_mb=self._engine.shard_tables_mb)
        if self._engine.compile:
            phase.module.compile()
        batches = len(phase.batches(run.generator(phase.name, 0)))
        steps = -(-batches // self._engine.accumulate_batches)
        self._optimisers = Optimisers(
            phase.module, self._engine, learning_rate=phase.learning_rate,
            weight_decay=phase.weight_decay, num_steps=steps * phase.epochs,
        )  # fmt: skip
        self._epoch, self._batch, self._total = 0, 0, 0.0
        self._best: State | None = None
        """Loss on the validation slice, epoch and weights of the best epoch."""
        if run._current is not None and run._current["phase"] == phase.name:
            self._take_up(run._current)

    def _take_up(self, state: State) -> None:
        load_module(self._phase.module, state["module"])
        load_optimisers(self._phase.module, self._optimisers.all, state["optimisers"])
        self._optimisers.load_schedule_state(state["schedules"])
        self._epoch, self._batch, self._total = state["epoch"], state["batch"], state["total"]
        self._best = state["best"]

    def _state(self, epoch: int, batch: int, total: float) -> State:
        """Give where this phase is: before batch ``batch`` of ``epoch``; ``total`` is its loss."""
        return {
            "phase": self._phase.name, "epoch": epoch, "batch": batch,
            "total": total, "best": self._best,
            "module": module_state(self._phase.module),
            "optimisers": optimiser_states(self._phase.module, self._optimisers.all),
            "schedules": self._optimisers.schedule_state(),
        }  # fmt: skip

    def run(self) -> None:
        run, phase = self._run, self._phase
        for epoch in range(self._epoch, phase.epochs):
            loss = self._one_epoch(epoch)
            run.curve.append((phase.name, epoch, loss))
            run._on_epoch(phase.name, epoch, phase.epochs, loss)
            if not self._gets_better(epoch) or epoch + 1 == phase.epochs:
                break
            run.keep(self._state(epoch + 1, 0, 0.0), loss, epoch)
        weights = module_state(phase.module)
        if self._best is not None:
            weights = self._best["module"]
        gather_tables(phase.module)
        phase.module.load_state_dict(weights)
        run._done[phase.name] = weights
        last = run.curve[-1] if run.curve else (phase.name, 0, 0.0)
        run.keep(None, last[2], last[1])

    def _gets_better(self, epoch: int) -> bool:
        """Look at the validation slice; tell whether to go on."""
        patience, validate = self._engine.patience, self._phase.validate
        if patience == 0 or validate is None:
            return True
        self._phase.module.eval()
        with torch.no_grad():
            loss = self._world.mean(validate())
        self._run.curve.append((f"{self._phase.name} validation", epoch, loss))
        if self._best is None or loss < self._best["loss"]:
            self._best = {
                "loss": loss, "epoch": epoch, "module": module_state(self._phase.module)
            }  # fmt: skip
        return bool(epoch - self._best["epoch"] < patience)

    def _one_epoch(self, epoch: int) -> float:
        phase, engine, world = self._phase, self._engine, self._world
        phase.module.train()
        batches = phase.batches(self._run.generator(phase.name, epoch))
        first, before = (self._batch, self._total) if epoch == self._epoch else (0, 0.0)
        # On the device: looking at each loss would wait for each step.
        total = torch.full((), before, dtype=torch.float64, device=world.device)
        number, size = first, len(batches)
        self._optimisers.zero_grad()
        for batch in _starting_at(batches, first):
            # All workers draw the same negatives for the whole batch, and then their own dropout.
            common = self._run.generator(phase.name, epoch, number)
            torch.manual_seed(self._run.seed_of(phase.name, epoch, number, world.rank + 1))
            with torch.autocast(
                world.device.type, dtype=torch.bfloat16, enabled=engine.precision == "bfloat16"
            ):
                loss = phase.loss(batch, common)
            number += 1
            group = (number - 1) // engine.accumulate_batches * engine.accumulate_batches
            (loss / min(engine.accumulate_batches, size - group)).backward()
            total += loss.detach()
            if number % engine.accumulate_batches == 0 or number == size:
                world.average_gradients(phase.module)
                self._optimisers.step()
                self._optimisers.zero_grad()
                if number < size and self._is_time(number):
                    so_far = world.mean(float(total))
                    self._run.keep(self._state(epoch, number, so_far), so_far / number, epoch)
        phase.module.eval()
        return world.mean(float(total) / max(size, 1))

    def _is_time(self, number: int) -> bool:
        """Tell whether a checkpoint is due; rank 0's clock counts."""
        if number % _LOOK_AT_CLOCK_EVERY:
            return False
        world = self._world
        waited = time.monotonic() - self._run._saved_s
        return world.any(world.rank == 0 and waited >= self._engine.checkpoint_every_s)


def _starting_at(batches: Batches, step: int) -> Iterable[Any]:
    return (
        batches.starting_at(step) if isinstance(batches, Seekable) else islice(batches, step, None)
    )
