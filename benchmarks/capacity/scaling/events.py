"""What an event costs the stream worker, Redis and Kafka: by users, by features and by events.

The worker reads a filled topic as fast as it can, as ``features.stream_rate`` has it; here the CPU
of Redis and Kafka is taken beside its own, and what an event takes on Kafka's disk.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.capacity.scaling.points import Task
from benchmarks.capacity.scaling.servers import running
from benchmarks.features.stream_rate import NUM_ITEMS, fill, worker_seconds
from benchmarks.loadtest.system import System
from recsys.events.kafka import delete_topics, ensure_topics
from recsys.events.topics import Topics
from recsys.features import current_plan
from recsys.features.plan import Plan
from recsys.settings import Settings

USERS = (300, 3_000, 30_000)
BASE_USERS = 3_000
VIEWS = (
    "item_activity",
    "user_activity,item_activity",
    "user_activity,item_activity,user_history",
    "",
)
"""Jobs of more and more features; the last one is all that is declared."""
NUM_EVENTS = 25_000


@contextmanager
def study(folder: Path) -> Iterator[list[Task]]:
    """Give the points, with a Kafka and a Redis that are up meanwhile."""
    with running(folder, "redis", "kafka") as system:
        points = [(users, "") for users in USERS]
        points += [(BASE_USERS, views) for views in VIEWS if views]
        made = []
        for users, views in points:
            settings = {"users": users, "views": views or "all", "events": NUM_EVENTS}
            name = f"users={users} views={views or 'all'}"
            made.append(Task(name=name, settings=settings, run=_run(system, users, views)))
        yield made


def _run(system: System, users: int, views: str) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        namespace = f"scaling{uuid.uuid4().hex[:8]}"
        settings = system.settings.model_copy(update={"namespace": namespace})
        with tempfile.TemporaryDirectory() as folder:
            plan = current_plan.ensure(Path(folder), project=namespace)
        return _measured(system, settings, _of(plan, views), users)

    return run


def _of(plan: Plan, views: str) -> Plan:
    if not views:
        return plan
    chosen = tuple(plan.view(name) for name in views.split(","))
    return msgspec.structs.replace(plan, views=chosen, services={})


def _measured(system: System, settings: Settings, plan: Plan, users: int) -> dict[str, float]:
    topics, count = Topics(namespace=settings.namespace), NUM_EVENTS + NUM_ITEMS
    ensure_topics(settings, system.endpoints, topics.all())
    try:
        before = system.cpu_s()
        fill(settings, system.endpoints, topics, NUM_EVENTS, users)
        filled = system.cpu_s()
        stored = _stored(system, settings.namespace)
        with tempfile.TemporaryDirectory() as log:
            worker_s, wall_s = worker_seconds(settings, system.endpoints, plan, Path(log))
        after = system.cpu_s()
    finally:
        delete_topics(settings, system.endpoints, topics.all())
    us = 1e6 / count
    return {
        "features": float(sum(len(view.features) for view in plan.views)),
        "worker_us": round(worker_s * us, 3),
        "worker_wall_us": round(wall_s * us, 3),
        "redis_us": round((after["redis"] - filled["redis"]) * us, 3),
        "kafka_write_us": round((filled["kafka"] - before["kafka"]) * us, 3),
        "kafka_read_us": round((after["kafka"] - filled["kafka"]) * us, 3),
        "kafka_bytes": round(stored / count, 2),
    }


def _stored(system: System, namespace: str) -> int:
    """Give the bytes of the logs of a namespace's topics on Kafka's disk."""
    folder = system.settings.state_dir / "kafka"
    return sum(
        path.stat().st_size for path in folder.rglob("*.log") if namespace in path.parent.name
    )
