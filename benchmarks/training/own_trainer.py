"""Our side of the training benchmarks: a phase of ``training.loop``, in turns.

Usage::

    python -m benchmarks.training.own_trainer '{"model": "dcn", "data": "batches.npz", ...}'

What is timed is the loop that trains bundles (``training.loop.Run``) with its optimisers, its
precision and its gradients, fed with batches that were made before: the loop asks for its next
batch, and between turns that asking waits for the next line of standard input (``turns.py``).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.machine import settle
from training.engine import Engine
from training.loop import NoCheckpoints, Phase, Run, World
from training.sharded_tables import lookup_tables

Batch = tuple[Tensor, ...]
_ENDLESS = 10**6
"""Steps of the one epoch, for the schedule of the learning rate: more than are ever taken."""
_PROFILED_STEPS = 10
_START_DIVISOR = 25
"""Of torch's one cycle: so long a one stays near its start, this part of its peak."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be trained."""

    module: nn.Module
    loss: Callable[[Batch], Tensor]
    batches: Sequence[Batch]
    examples: Sequence[int]
    """Examples of each batch."""
    learning_rate: float
    """That of the first steps."""
    more: dict[str, Any]
    """Said with the rest when ready."""
    renew: Callable[[Batch], Batch] = lambda batch: batch
    """Makes of a batch what a step learns from."""


class TurnBatches:
    """An endless epoch: between turns it reports, and waits to be told how many steps are next."""

    def __init__(self, task: Task, losses: list[Tensor], device: torch.device) -> None:
        self._task, self._losses, self._device = task, losses, device
        self._answers, self._questions = _own_streams()

    def say(self, **answer: Any) -> None:
        """Write a line."""
        self._answers.write(json.dumps(answer) + "\n")

    def __len__(self) -> int:
        return _ENDLESS

    def __iter__(self) -> Iterator[Batch]:
        turn, count = 0, len(self._task.batches)
        for line in self._questions:
            steps, examples = json.loads(line)["steps"], 0
            self._losses.clear()
            settle(self._device)
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(steps):
                examples += self._task.examples[turn % count]
                yield self._task.renew(self._task.batches[turn % count])
                turn += 1
            settle(self._device)
            wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
            self.say(
                examples=examples, wall_s=wall_s, cpu_s=cpu_s, peak_bytes=_peak(self._device),
                loss=float(torch.stack(self._losses).mean()),
            )  # fmt: skip


def train(task: Task, engine: Engine, *, device: torch.device, seed: int) -> None:
    """Count a step's operations, say we are ready, and train as often as asked."""
    task.module.to(device).train()
    losses: list[Tensor] = []
    batches = TurnBatches(task, losses, device)
    if engine.sparse_tables:  # a whole gradient, made only to count, would be the peak of memory
        for _, table in lookup_tables(task.module):
            table.sparse = True
    with (
        FlopCounterMode(display=False) as counter,
        torch.autocast(device.type, torch.bfloat16, enabled=engine.precision == "bfloat16"),
    ):
        task.loss(task.renew(task.batches[0])).backward()
    task.module.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    batches.say(
        flops_per_step=counter.get_total_flops(), examples_per_step=task.examples[0],
        versions={"torch": torch.__version__}, **task.more,
    )  # fmt: skip

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        value = task.loss(batch)
        losses.append(value.detach())
        return value

    phase = Phase(
        name="benchmark", module=task.module, batches=lambda _: batches, loss=loss, epochs=1,
        learning_rate=_START_DIVISOR * task.learning_rate, weight_decay=0.0,
    )  # fmt: skip
    Run(seed=seed, world=World(device=device), checkpoints=NoCheckpoints(), engine=engine).train(
        phase
    )


def profile(task: Task, engine: Engine, *, device: torch.device, seed: int) -> str:
    """Train a few steps under torch's profiler; give the table of what took longest."""
    task.module.to(device).train()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    began = [task.renew(batch) for batch in task.batches[:_PROFILED_STEPS]]
    run = Run(seed=seed, world=World(device=device), checkpoints=NoCheckpoints(), engine=engine)
    for name in ("warm-up", "profiled"):
        phase = Phase(
            name=name, module=task.module, batches=lambda _: began, epochs=1, weight_decay=0.0,
            loss=lambda batch, _: task.loss(batch), learning_rate=task.learning_rate,
        )  # fmt: skip
        if name == "warm-up":
            run.train(phase)
            continue
        with torch_profile(activities=activities) as seen:
            run.train(phase)
            settle(device)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table: str = seen.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=48)
    return table


def _own_streams() -> tuple[TextIO, TextIO]:
    """Give the protocol's two ends; what is printed from now on goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers, sys.stdin


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Build what the argument asks for and train it."""
    # Both import this module for ``Task``.
    from benchmarks.training import click_task, sequence_task

    asked = json.loads(sys.argv[1])
    device = torch.device(asked["device"])
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(asked["seed"])
    if device.type == "cuda":
        torch.set_float32_matmul_precision(asked["float32_matmul"])
    engine = Engine(
        precision=asked["dtype"], compile=asked["compile"], sparse_tables=asked["sparse_tables"],
        table_optimiser="row_wise_adagrad", checkpoint_every_s=float("inf"),
        table_learning_rate=_START_DIVISOR * asked.get("table_learning_rate", 0.0),
    )  # fmt: skip
    make = sequence_task.make if asked["model"] == "sequence" else click_task.make
    task = make(asked, device)
    if asked.get("profile"):
        sys.stdout.write(profile(task, engine, device=device, seed=asked["seed"]))
        return
    train(task, engine, device=device, seed=asked["seed"])


if __name__ == "__main__":
    main()
