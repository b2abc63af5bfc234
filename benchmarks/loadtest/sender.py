"""One process of the generator: takes jobs over a pipe, sends, and tells what came twice a second.

``senders.py`` starts ``python -m benchmarks.loadtest.sender N`` and hands it descriptor N.
Several share one schedule: each gets every n-th request, and all begin at one reading of the
machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.loadtest.paced import Floats, Pacer
from benchmarks.loadtest.targets import Address, Stages, Target
from benchmarks.loadtest.traffic import Traffic
from recsys.errors import RecsysError

_TELL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class SenderConfig:
    """What stays the same from job to job."""

    address: Address
    template: Path | None
    user_ids: tuple[str, ...]
    k: int
    click_rate: float
    learns: bool
    timeout_s: float
    seed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Requests to send."""

    due_s: Floats
    user_places: NDArray[np.int64]
    kinds: NDArray[np.int64]
    start: float
    """Reading of ``perf_counter`` that ``due_s`` counts from."""
    max_waiting: int


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one sender tells: requests that ended since it last did."""

    numbers: NDArray[np.int64]
    latency_s: Floats
    """Until the answer; NaN where none came."""
    lateness_s: Floats
    kinds: NDArray[np.int64]
    labels: list[str]
    num_due: int
    num_open: int
    stages: Stages = field(default_factory=dict)
    is_last: bool = False
    given_up: bool = False
    cpu_s: float = 0.0
    trouble: str = ""
    """Why nothing could be sent."""


def make_target(address: Address, template: Path | None) -> Target:
    """Give the target. Raises RecsysError when it cannot be."""
    if template is not None:
        from benchmarks.loadtest.template import TemplateTarget, read_template

        return TemplateTarget(address, read_template(template))
    if address.scheme in ("grpc", "grpcs"):
        from benchmarks.loadtest.grpc_target import GrpcApi

        return GrpcApi(address)
    from benchmarks.loadtest.http_api import HttpApi

    return HttpApi(address)


def serve(pipe: Connection) -> None:
    """Work off jobs until the pipe is closed; ``None`` in place of a job stops the one running."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and says what to do
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each that waits has a connection
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        config: SenderConfig = pipe.recv()
        try:
            target = make_target(config.address, config.template)
        except (RecsysError, OSError) as error:
            pipe.send(_nothing(str(error)))
            return
        traffic = Traffic(
            target, k=config.k, click_rate=config.click_rate, learns=config.learns,
            rng=np.random.default_rng(config.seed),
        )  # fmt: skip
        pipe.send(_nothing())
        while True:
            job = pipe.recv()
            if job is None:
                continue
            try:
                users = [config.user_ids[place] for place in job.user_places.tolist()]
                traffic.begin(users, job.kinds)
                uvloop.run(_send(pipe, job, config, target, traffic))
            except (RecsysError, OSError) as error:
                if isinstance(error, BrokenPipeError | ConnectionResetError):
                    raise
                pipe.send(_nothing(f"{type(error).__name__}: {error}"))


async def _send(
    pipe: Connection, job: Job, config: SenderConfig, target: Target, traffic: Traffic
) -> None:
    stages: Stages = {}
    pacer = Pacer(
        traffic, job.due_s, target.outlet(traffic, stages), timeout_s=config.timeout_s,
        max_waiting=job.max_waiting,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # what is there already would be looked through again in the generator's own time
    try:
        running = asyncio.ensure_future(pacer.run(job.start))
        told = 0
        while True:
            done, _ = await asyncio.wait([running], timeout=_TELL_S)
            if done:
                break
            if pipe.poll():
                pipe.recv()
                pacer.stop()
            heard, told = _heard(pacer, traffic, stages, told)
            await asyncio.to_thread(pipe.send, heard)
        paced = running.result()
    finally:
        gc.unfreeze()
    # What was given up has no answer and never ended.
    pacer.ended += [n for n in range(pacer.num_due) if pacer.labels[n] == "unanswered"]
    heard, _ = _heard(
        pacer, traffic, stages, told, is_last=True, given_up=paced.given_up,
        cpu_s=paced.generator_cpu_s,
    )  # fmt: skip
    pipe.send(heard)


def _heard(
    pacer: Pacer, traffic: Traffic, stages: Stages, told: int, **more: Any
) -> tuple[Heard, int]:
    upto = len(pacer.ended)
    numbers = np.array(pacer.ended[told:upto], dtype=np.int64)
    heard = Heard(
        numbers=numbers,
        latency_s=pacer.latency_s[numbers],
        lateness_s=pacer.lateness_s[numbers],
        kinds=traffic.kinds[numbers],
        labels=[pacer.labels[number] for number in numbers.tolist()],
        num_due=pacer.num_due,
        num_open=pacer.num_open,
        stages={name: list(values) for name, values in stages.items()},
        **more,
    )
    stages.clear()
    return heard, upto


def _nothing(trouble: str = "") -> Heard:
    none: Sequence[int] = ()
    empty, numbers = np.array(none, dtype=np.float64), np.array(none, dtype=np.int64)
    return Heard(
        numbers=numbers, latency_s=empty, lateness_s=empty, kinds=numbers, labels=[], num_due=0,
        num_open=0, is_last=True, trouble=trouble,
    )  # fmt: skip


if __name__ == "__main__":
    from benchmarks.loadtest import sender  # its classes by the name the parent knows

    sender.serve(Connection(int(sys.argv[1])))
