"""Points of a machine whose laws are known: what the fits and the plan are tested on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.capacity.scaling import events, kernels, memory, store, system
from benchmarks.capacity.scaling.points import Point

FEATURES = 9
_IDLE = {"api": 20.0, "triton's children": 15.0, "triton": 3.0, "redis": 4.0, "kafka": 60.0,
         "stream": 25.0}  # fmt: skip
_A_REQUEST = {"api": 1.5, "triton": 0.2, "redis": 0.25, "kafka": 0.3, "stream": 0.1}
WARM, COLD, EACH = 1.1, 0.7, 0.4
"""Of the model server: arithmetic beside that of a loop, and what a request takes besides."""


def stages_ms(
    items: float, search: str, candidates: float, history: float, features: float, batch: int
) -> dict[str, float]:
    """Give what each stage of a call takes on this machine."""
    scan = 3e-5 * items if search == "exact" else 0.02 * items**0.3
    retrieve = scan + batch * (0.2 + 0.002 * candidates**0.9 + 0.01 * history)
    rank = 0.2 + 0.0006 * (1 + batch) * candidates * (1 + history / 200) * (1 + features / 50)
    return {"prepare": 0.3 + 0.02 * batch + 1e-4 * history, "retrieve": retrieve, "rank": rank}


def users_a_call(rate: float, call_one_ms: float) -> float:
    """Give how many travel together."""
    return 1.0 + rate * call_one_ms / 1e3


def cpu_ms_a_second(
    process: str, rate: float, items: float, search: str, candidates: float
) -> float:
    """Give what a process spends in a second."""
    if process != "triton's children":
        return _IDLE[process] + _A_REQUEST[process] * rate
    one = sum(stages_ms(items, search, candidates, 50, FEATURES, 1).values()) + 0.2
    eight = sum(stages_ms(items, search, candidates, 50, FEATURES, 8).values()) + 0.2
    users = users_a_call(rate, one)
    call = one + (eight - one) * (users - 1) / 7
    idle, arithmetic = _IDLE[process], rate * call / users
    factor = WARM + COLD * (1 - idle / 1e3)
    return idle + (arithmetic * factor + EACH * rate) / (1 + arithmetic * COLD / 1e3)


def synthetic_points(noise: float = 0.0, seed: int = 0) -> list[Point]:
    """Give two repeats of every point; ``noise`` is the standard deviation of a log."""
    rng = np.random.default_rng(seed)
    return list(_points(lambda: float(rng.lognormal(0.0, noise))))


def _points(n: object) -> Iterator[Point]:
    for repeat in range(2):
        for study, name, settings, values in _all(n):
            yield Point(
                study=study, name=name, repeat=repeat, settings=settings, values=values,
                reference_ms=1.3, commit="abc1234", at=1_795_000_000 + repeat * 1_000,
            )  # fmt: skip


def _all(n) -> Iterator[tuple[str, str, dict, dict]]:  # type: ignore[no-untyped-def, type-arg]
    for size in kernels.sizes():
        settings = {
            "items": size.items, "search": size.search, "candidates": size.candidates,
            "history": size.history, "batch": size.batch, "features": size.features or FEATURES,
        }  # fmt: skip
        stages = {name: ms * n() for name, ms in stages_ms(**settings).items()}
        yield "kernels", str(size), settings, stages | {"answer": sum(stages.values()) + 0.2}
    for users, deeds in [(u, store.BASE_EVENTS) for u in store.USERS] + [
        (store.BASE_USERS, e) for e in store.EVENTS if e != store.BASE_EVENTS
    ]:
        values = {
            "bytes_a_user": 500 + 40 * deeds, "read_redis_ms": 0.05 * n(),
            "read_client_ms": 0.3 * n(), "read_bytes": 300.0 + 20 * deeds,
        }  # fmt: skip
        yield "store", f"{users} {deeds}", {"users": users, "events": deeds}, values
    for kind, sizes in memory.ITEMS.items():
        for items in sizes:
            values = {"bytes": 3e8 + 1_200.0 * items}
            yield "memory", f"{items} {kind}", {"items": items, "kind": kind}, values
    for items in memory.API_ITEMS:
        values = {"bytes": 1e8 + 250.0 * items}
        yield "memory", f"{items} api", {"items": items, "kind": "api"}, values
    yield "memory", "item hash", {"items": 2_000, "kind": "item hash"}, {"bytes": 300}
    for users, views in [(u, "all") for u in events.USERS] + [
        (events.BASE_USERS, v) for v in events.VIEWS if v
    ]:
        features = 35.0 if views == "all" else 10.0 * len(views.split(","))
        values = {
            "features": features, "worker_us": (5 + 0.4 * features) * n(), "redis_us": 8.0 * n(),
            "kafka_write_us": 5.0, "kafka_read_us": 3.0, "kafka_bytes": 60.0,
        }  # fmt: skip
        yield "events", f"{users} {views}", {"users": users, "views": views}, values
    for one in system.CONFIGURATIONS:
        settings = {
            "items": one.items, "search": one.search, "candidates": one.candidates,
            "held_out": one.is_held_out,
        }  # fmt: skip
        steps = [_step(rate, one, n) for rate in one.rates]
        values = {
            "steps": steps, "rss_mib": {"api": 200.0}, "answer_bytes": 2_000.0,
            "call_bytes": 3_000.0,
        }  # fmt: skip
        yield "system", str(one), settings, values
    yield "system", "events", {"held_out": False}, {"steps": [_posts(p, e) for p, e in _POSTS]}


_POSTS = system.EVENT_POSTS


def _step(rate: float, one: system.Configuration, n) -> dict:  # type: ignore[no-untyped-def, type-arg]
    cpu_s = {
        process: 6 * n() * cpu_ms_a_second(process, rate, one.items, one.search, one.candidates)
        / 1e3
        for process in _IDLE
    }  # fmt: skip
    step = {"asked": rate, "rate": rate, "seconds": 6.0, "cpu_s": cpu_s}
    if not rate:
        return step
    call = sum(stages_ms(one.items, one.search, one.candidates, 50, FEATURES, 1).values()) + 0.2
    users = users_a_call(rate, call)
    size = int(users)
    calls = {str(size): 1e3 * (size + 1 - users), str(size + 1): 1e3 * (users - size)}
    sent = int(rate * 6)
    return step | {
        "sent": sent, "full": sent, "calls": calls, "kafka_bytes": 400.0 * sent, "p50_ms": 8.0,
        "p99_ms": 20.0,
    }  # fmt: skip


def _posts(posts: float, each: int) -> dict:  # type: ignore[type-arg]
    spent = {
        process: (7 * idle + 6 * (0.5 * posts + 0.05 * posts * each)) / 1e3
        for process, idle in _IDLE.items()
    }
    return {
        "rate": 0.0, "posts": posts, "events": posts * each, "seconds": 7.0, "busy_s": 6.0,
        "cpu_s": spent,
    }  # fmt: skip
