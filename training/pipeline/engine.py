"""Runs steps in order: each once for what it depends on, again when trouble was of the moment.

A step's key is a hash of its name, its part of the definition, its code and the content of what it
reads. If an output lies under that key and its checksums fit, the step is not run. So a run that
was killed anywhere goes on where it was, and a run where nothing changed does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.pipeline.journal import Journal
from training.pipeline.outputs import DamagedError, Output, Outputs, key_of
from training.pipeline.retry import RetryConfig, is_transient


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step is given."""

    out: Path
    """An empty folder for its output."""
    given: Mapping[str, Path]
    """Folders of what it reads, by the name of the step that wrote it. Not to be written to."""
    scratch: Path
    """Made by the step if it wants one: what lies here is found again after a kill."""
    journal: Journal


@dataclass(frozen=True, kw_only=True)
class Step:
    """One link of the chain."""

    name: str
    work: Callable[[Work], None]
    reads: tuple[str, ...] = ()
    """Steps before it whose outputs it reads."""
    config: Mapping[str, Any] | Callable[[Mapping[str, Output]], Mapping[str, Any]]
    """Its part of the definition, and whatever else it depends on, as plain JSON values; a function
    where that is known only from the outputs before it."""
    code: str
    """Identity of the code it runs."""
    holds: Callable[[Path], bool] = lambda _: True
    """Says whether the effect that an output tells of is still there; else the step runs again."""


def key_of_step(step: Step, done: Mapping[str, Output]) -> str:
    """Give the key under which the output of ``step`` lies, given the outputs before it."""
    config = step.config(done) if callable(step.config) else step.config
    return key_of(
        {
            "step": step.name,
            "config": dict(config),
            "code": step.code,
            "reads": {name: done[name].digest for name in step.reads},
        }
    )


def run_steps(
    steps: Sequence[Step],
    outputs: Outputs,
    journal: Journal,
    *,
    check: Callable[[], None],
    retry: RetryConfig,
    sleep: Callable[[float], None] = time.sleep,
    done: Mapping[str, Output] | None = None,
) -> dict[str, Output]:
    """Run what has to be run and give all outputs by step.

    Args:
        steps: In order.
        outputs: Where they lie.
        journal: Told of everything.
        check: Raises when the run may not go on (the lease is lost, a stop was asked for); called
            before each step and each try.
        retry: How often a step is tried that fails for a passing reason.
        sleep: Waits between tries.
        done: Outputs of steps before these.

    Raises:
        Exception: what the step raised, when it is no passing trouble or was tried often enough.
    """
    finished = dict(done or {})
    for step in steps:
        check()
        key = key_of_step(step, finished)
        found = _found(step, key, outputs, journal)
        if found is None:
            found = _made(step, key, finished, outputs, journal, check, retry, sleep)
        else:
            journal.tell("step_reused", step=step.name, key=key)
        finished[step.name] = found
    return finished


def _found(step: Step, key: str, outputs: Outputs, journal: Journal) -> Output | None:
    try:
        found = outputs.find(step.name, key)
    except DamagedError as error:
        journal.tell("step_damaged", step=step.name, key=key, error=str(error))
        return None
    if found is not None and not step.holds(found.path):
        outputs.remove(found)
        return None
    return found


def _made(
    step: Step,
    key: str,
    done: Mapping[str, Output],
    outputs: Outputs,
    journal: Journal,
    check: Callable[[], None],
    retry: RetryConfig,
    sleep: Callable[[float], None],
) -> Output:
    attempt = 0
    while True:
        attempt += 1
        check()
        begin = time.monotonic()
        journal.tell("step_started", step=step.name, key=key, attempt=attempt)
        try:
            with outputs.making(step.name, key) as out:
                step.work(
                    Work(
                        out=out,
                        given={name: done[name].path for name in step.reads},
                        scratch=outputs.scratch(step.name, key),
                        journal=journal,
                    )
                )
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if attempt >= retry.attempts or not is_transient(error):
                journal.tell("step_failed", step=step.name, key=key, error=said)
                raise
            pause_s = retry.pause_s(attempt)
            journal.tell(
                "step_retried", step=step.name, key=key, error=said, attempt=attempt,
                pause_s=pause_s,
            )  # fmt: skip
            sleep(pause_s)
            continue
        found = outputs.find(step.name, key)
        assert found is not None, f"step {step.name} left no output"
        journal.tell(
            "step_done", step=step.name, key=key, took_s=round(time.monotonic() - begin, 3)
        )
        return found
