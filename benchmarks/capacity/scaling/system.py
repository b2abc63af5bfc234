"""CPU and memory of every process of the real system, by requests, items, candidates and events.

One system with several bundles of which one is live at a time. Each configuration is asked at
several rates; two of them are *held out*: nothing is fitted to them, they are predicted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.capacity.scaling.bundles import bundle_of
from benchmarks.capacity.scaling.points import Task
from benchmarks.capacity.scaling.servers import running
from benchmarks.loadtest.arrivals import poisson_arrivals_s
from benchmarks.loadtest.connection import ConnectionPool, prepare_post
from benchmarks.loadtest.greatest_rate import Limit, measure_step
from benchmarks.loadtest.kernels import users
from benchmarks.loadtest.model_calls import between, model_calls
from benchmarks.loadtest.stretch import Asking, Stretch, prepared
from benchmarks.loadtest.system import SERVERS, Behaviour, System, fill, user_id
from benchmarks.loadtest.untrained_bundle import Shape, item_id
from recsys.bundle.manifest import read_manifest
from recsys.clock import now_ms
from recsys.features import current_plan
from recsys.models import signature
from recsys.retrieval.search_choice import Search

_FILLED = "filled"
_BEHAVIOUR = Behaviour()
_WARM_UP_S, _STEP_S, _IDLE_S = 2.5, 6.0, 6.0
_EXPOSED_S = 0.5
"""Until what was shown has reached Kafka's files."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A bundle, and the rates it is asked at."""

    items: int
    search: Search
    candidates: int
    rates: tuple[float, ...]
    is_held_out: bool = False

    @property
    def shape(self) -> Shape:
        """What the bundle is made with."""
        return Shape(num_candidates=self.candidates, search=self.search)


CONFIGURATIONS = (
    Configuration(items=20_000, search="exact", candidates=500, rates=(0, 30, 80, 140, 200)),
    Configuration(items=20_000, search="exact", candidates=100, rates=(60, 160)),
    Configuration(items=20_000, search="exact", candidates=2_000, rates=(25, 60)),
    Configuration(items=60_000, search="exact", candidates=500, rates=(40, 100)),
    Configuration(items=150_000, search="approximate", candidates=500, rates=(40, 100)),
    Configuration(
        items=30_000, search="exact", candidates=1_000, rates=(50, 120), is_held_out=True
    ),
    Configuration(
        items=300_000, search="approximate", candidates=250, rates=(75,), is_held_out=True
    ),
)
EVENT_POSTS = ((20.0, 10), (80.0, 10), (80.0, 1), (160.0, 1))
"""Requests of ``/v1/events`` a second, and events in each."""


def prepare(folder: Path) -> None:
    """Make the bundles and send the behaviour; what is there already stays."""
    with running(folder, *SERVERS[:2], "stream") as system:
        settings = system.settings
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        if not (folder / _FILLED).exists():
            fill(system, _BEHAVIOUR.num_touched, _BEHAVIOUR)
            (folder / _FILLED).touch()
        for one in CONFIGURATIONS:
            bundle_of(settings.bundle_dir, plan, one.items, one.shape)


@contextmanager
def study(folder: Path) -> Iterator[list[Task]]:
    """Give the points, with the system up meanwhile."""
    with running(folder, *SERVERS) as system:
        made = []
        for one in CONFIGURATIONS:
            name = f"items={one.items} {one.search} candidates={one.candidates}"
            settings = {
                "items": one.items, "search": one.search, "candidates": one.candidates,
                "held_out": one.is_held_out,
            }  # fmt: skip
            made.append(Task(name=name, settings=settings, run=_run(system, one)))
        made.append(Task(name="events", settings={"held_out": False}, run=lambda: _events(system)))
        yield made


def _run(system: System, one: Configuration) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        settings = system.settings
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        bundle = bundle_of(settings.bundle_dir, plan, one.items, one.shape)
        system.run("publish", bundle.name)
        system.find_processes()
        who = tuple(user_id(n) for n in range(_BEHAVIOUR.num_users))
        rng = np.random.default_rng(time.time_ns())
        asking = Asking(
            host="127.0.0.1", port=system.settings.api_port, user_ids=who,
            seed=int(rng.integers(1 << 30)),
        )  # fmt: skip
        order = rng.permutation(len(one.rates)).tolist()
        steps = [_step(system, asking, one.rates[place]) for place in order]
        rss = {name: size["rss_mib"] for name, size in system.sizes().items()}
        return {
            "steps": steps, "rss_mib": rss, "bundle_bytes": _size(bundle),
            "answer_bytes": asyncio.run(_answer_bytes(asking)), "call_bytes": _call_bytes(bundle),
        }  # fmt: skip

    return run


def _step(system: System, asking: Asking, rate: float) -> dict[str, Any]:
    if not rate:
        before = system.cpu_s()
        time.sleep(_IDLE_S)
        spent = {name: cpu - before[name] for name, cpu in system.cpu_s().items()}
        return {"asked": 0.0, "rate": 0.0, "seconds": _IDLE_S, "cpu_s": spent}
    calls, stored = model_calls(system.url), _kafka_bytes(system)
    limit = Limit(warm_up_s=_WARM_UP_S, step_s=_STEP_S)
    found = measure_step(asking, rate, limit, system.cpu_s)
    # Calls of the warm-up are among them: the same rate of the same users.
    sizes = between(calls, model_calls(system.url))
    full = found.answers.get("200 full", 0)
    time.sleep(_EXPOSED_S)
    # Of the warm-up and the step, asked at the same rate.
    exposures = (_kafka_bytes(system) - stored) * _STEP_S / (_STEP_S + _WARM_UP_S)
    return {
        "asked": rate, "kafka_bytes": exposures,
        "rate": found.sent / _STEP_S, "seconds": _STEP_S, "cpu_s": found.cpu_s,
        "sent": found.sent, "full": full, "p50_ms": found.p50_ms, "p99_ms": found.p99_ms,
        "late_p99_ms": found.late_p99_ms, "generator_cpu_s": found.generator_cpu_s,
        "calls": {str(size): count for size, count in sizes.items()},
    }  # fmt: skip


def _events(system: System) -> dict[str, Any]:
    system.find_processes()
    rng = np.random.default_rng(time.time_ns())
    order = rng.permutation(len(EVENT_POSTS)).tolist()
    return {"steps": [_event_step(system, *EVENT_POSTS[place], rng) for place in order]}


def _event_step(
    system: System, posts: float, each: int, rng: np.random.Generator
) -> dict[str, Any]:
    due_s = poisson_arrivals_s(rate_per_s=posts, duration_s=_STEP_S, rng=rng)
    host, port = "127.0.0.1", system.settings.api_port
    requests = [prepare_post(host, port, "/v1/events", _body(rng, each)) for _ in range(len(due_s))]
    before = system.cpu_s()
    stretch = Stretch(host=host, port=port, requests=requests, due_s=due_s)
    paced = stretch.send(label=lambda status, _: str(status))
    time.sleep(1.0)  # what was taken is applied within that
    spent = {name: cpu - before[name] for name, cpu in system.cpu_s().items()}
    return {
        "rate": 0.0, "posts": len(due_s) / _STEP_S, "events": len(due_s) * each / _STEP_S,
        "seconds": _STEP_S + 1.0, "busy_s": _STEP_S, "cpu_s": spent,
        "answers": dict(paced.answers),
    }  # fmt: skip


def _body(rng: np.random.Generator, each: int) -> bytes:
    events = []
    for _ in range(each):
        number = int(rng.integers(1 << 60))
        events.append(
            {
                "kind": "interaction", "event_id": f"x{number:x}", "event_time_ms": now_ms(),
                "user_id": user_id(int(rng.integers(_BEHAVIOUR.num_users))),
                "item_id": item_id(int(rng.zipf(1.2) % _BEHAVIOUR.num_touched) + 1),
                "type": "click" if number % 7 else "purchase", "value": 1.0,
            }
        )  # fmt: skip
    return msgspec.json.encode({"events": events})


async def _answer_bytes(asking: Asking) -> float:
    pool = ConnectionPool(asking.host, asking.port)
    sizes = []
    for request in prepared(asking, 20, np.random.default_rng(asking.seed)):
        answer = await pool.send(request, timeout_s=5.0)
        sizes.append(len(request) + len(answer.body))
    pool.close()
    return float(np.median(sizes))


def _call_bytes(bundle: Path) -> float:
    """Give the bytes of a user's tensors to the model server, and of an answer of 20 back."""
    dimensions = read_manifest(bundle).dimensions
    inputs = users(dimensions, 1_000, 1)
    sent = sum(tensor.numel() * tensor.element_size() for tensor in inputs.values())
    outputs = signature.recommend_outputs(dimensions)
    sizes = {"INT32": 4, "INT64": 8, "FP32": 4, "BOOL": 1}
    per_answer = sum(
        sizes[spec.dtype] * math.prod(n for n in spec.shape if n > 0) for spec in outputs
    )
    return float(sent + asked_k() * per_answer)


def asked_k() -> int:
    """Give how many answers each request of the study wants."""
    return Asking(host="", port=0, user_ids=()).k


def _kafka_bytes(system: System) -> int:
    folder = system.settings.state_dir / "kafka"
    return sum(path.stat().st_size for path in folder.rglob("*.log"))


def posted_event_bytes() -> float:
    """Give the bytes of an event in a request of ten."""
    return len(_body(np.random.default_rng(0), 10)) / 10


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
