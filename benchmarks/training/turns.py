"""Trainers in processes of their own, told in turn to train for a while: A B C, C A B, …

A trainer is a command that prints one line of JSON when it is ready (``flops_per_step``,
``examples_per_step``, ``versions``), then answers each line ``{"steps": n}`` with ``examples``,
``wall_s``, ``cpu_s``, ``loss`` and ``peak_bytes``. Peers run in environments of their own, ours in
this one, all by the same protocol. While one trains the others wait for their next line, so they
share the machine's mood and not its cores. All take the same number of steps, so that their losses
can be compared. What comes before the first turn is a warm-up and not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import ConfigurationError

_WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """One way to train."""

    command: Sequence[str]
    settings: Mapping[str, Any]
    """What the report says of it."""


@dataclass(kw_only=True)
class Turns:
    """What one trainer did, an entry each turn."""

    ready: dict[str, Any]
    examples: list[int] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def seconds_per_example(self, clock: str) -> np.ndarray:
        """Give ``[turns]`` by the ``wall`` or the ``cpu`` clock."""
        seconds = self.wall_s if clock == "wall" else self.cpu_s
        return np.array(seconds) / np.array(self.examples)


def train_in_turns(
    trainers: Mapping[str, Trainer], *, rounds: int, turn_s: float, seed: int
) -> tuple[dict[str, Turns], dict[str, str]]:
    """Train with each in an order of its own each round; give what they did.

    Args:
        trainers: By name.
        rounds: Turns of each.
        turn_s: About how long a turn takes: in the middle between the fastest and the slowest.
        seed: Of the orders.

    Returns:
        What each did, and for those that could not be started or stopped, why.
    """
    rng = np.random.default_rng(seed)
    running: dict[str, _Process] = {}
    failed: dict[str, str] = {}
    step_s: dict[str, float] = {}
    try:
        for name, trainer in trainers.items():
            try:
                running[name] = _Process(name, trainer.command)
                step_s[name] = running[name].warm_up()
            except ConfigurationError as error:
                failed[name] = str(error)
        middle_s = (min(step_s.values()) * max(step_s.values())) ** 0.5 if step_s else turn_s
        steps = max(1, round(turn_s / middle_s))
        for _ in range(rounds):
            for place in rng.permutation(len(trainers)).tolist():
                name = list(trainers)[place]
                if name in failed:
                    continue
                try:
                    running[name].turn(steps)
                except ConfigurationError as error:
                    failed[name] = str(error)
    finally:
        for process in running.values():
            process.stop()
    return {name: p.turns for name, p in running.items() if name not in failed}, failed


def profile_ours(trainers: Mapping[str, Trainer]) -> None:
    """Run our own trainers one after the other under torch's profiler; tables go to stderr."""
    for name, trainer in trainers.items():
        *command, asked = trainer.command
        done = subprocess.run(
            [*command, json.dumps({**json.loads(asked), "profile": True})],
            capture_output=True, text=True, check=False, env=_environment(),
        )  # fmt: skip
        sys.stderr.write(f"{name}\n{done.stdout or done.stderr}\n")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


class _Process:
    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``stop``
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(),
        )
        try:
            self.turns = Turns(ready=self._answer())
        except ConfigurationError:
            self.stop()
            raise

    def warm_up(self) -> float:
        """Take a few steps; give the seconds of one."""
        self._ask(_WARM_UP_STEPS)
        return float(self._ask(_WARM_UP_STEPS)["wall_s"]) / _WARM_UP_STEPS

    def turn(self, steps: int) -> None:
        """Train and note it."""
        done = self._ask(steps)
        self.turns.examples.append(done["examples"])
        self.turns.wall_s.append(done["wall_s"])
        self.turns.cpu_s.append(done["cpu_s"])
        self.turns.loss.append(done["loss"])
        self.turns.peak_bytes = done["peak_bytes"]

    def stop(self) -> None:
        """End it: no more lines."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it ended by itself, which its turn has said
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _ask(self, steps: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the missing answer says it better
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            raise ConfigurationError(
                f"{self._name}: wanted a trainer that answers, found exit code "
                f"{self._process.returncode}: {' | '.join(said[-3:])[-600:]}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer
