"""From measured points to the laws: which points each law is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median, mode
from typing import Any

import msgspec
import numpy as np

from benchmarks.capacity.scaling import kernels, memory, store, system
from benchmarks.capacity.scaling.fit import PowerLaw, fit_line, fit_power_law
from benchmarks.capacity.scaling.laws import PARTS, Base, EventLaw, Kernel, Laws, PartLaw
from benchmarks.capacity.scaling.points import Point
from benchmarks.capacity.scaling.predict import Work, call_ms, in_service_ms
from recsys.errors import InputError

PROCESSES = {"triton's children": "model server"}
"""Names of the parts, where the supervisor has another."""
_NOTHING = PowerLaw(
    fixed=0.0, factor=0.0, exponent=1.0, exponent_low=None, exponent_high=None,
    x_low=0.0, x_high=0.0, error=0.0,
)  # fmt: skip


def build(points: Sequence[Point]) -> Laws:
    """Fit everything. Raises InputError naming what has not been measured yet."""
    of = {
        study: [point for point in points if point.study == study]
        for study in ("kernels", "store", "events", "memory", "system")
    }
    if missing := [study for study, found in of.items() if not found]:
        raise InputError(f"wanted points of every study, found none of {', '.join(missing)}")
    base, fitted = _base(of["kernels"]), [point for point in of["system"] if _is_fitted(point)]
    steps = [step for point in fitted for step in steps_of(point)]
    made = Laws(
        base=base,
        kernels=[_kernel(of["kernels"], batch, base) for batch in kernels.BATCHES],
        warm=1.0, cold=0.0, call_users=_NOTHING, parts={}, events=_events(fitted, steps),
        **_stream(of["events"]), **_store(of["store"]),
        model_bytes={
            kind: _law(memory_fitted(of["memory"]), "items", "bytes", exponent=1.0, kind=kind)
            for kind in ("exact", "approximate")
        },
        api_bytes=_of_system(fitted, lambda values: values["rss_mib"]["api"]) * 2**20,
        api_item_bytes=_law(of["memory"], "items", "bytes", exponent=1.0, kind="api").factor,
        item_bytes=median(
            point.values["bytes"] for point in of["memory"] if point.settings["kind"] == "item hash"
        ),
        answer_bytes=_of_system(fitted, lambda values: values["answer_bytes"]),
        call_bytes=_of_system(fitted, lambda values: values["call_bytes"]),
        posted_event_bytes=system.posted_event_bytes(),
        kafka_request_bytes=median(
            step["kafka_bytes"] / step["sent"] for step in steps if step.get("sent")
        ),
        most_rate=max(step["rate"] for step in steps if is_full(step)),
    )  # fmt: skip
    return _with_system(made, steps)


def is_full(step: dict[str, Any]) -> bool:
    """Whether a step asked for recommendations and all were answered in full."""
    return bool(step.get("sent")) and step["full"] >= 0.995 * step["sent"]


def steps_of(point: Point) -> list[dict[str, Any]]:
    """Give a point's steps with CPU milliseconds a second of each part."""
    found = []
    for step in point.values["steps"]:
        cpu = dict.fromkeys(PARTS, 0.0)
        for process, seconds in step["cpu_s"].items():
            part = PROCESSES.get(process, process.removesuffix("'s children"))
            if part in cpu:
                cpu[part] += 1e3 * seconds / step["seconds"]
        found.append({**point.settings, **step, "cpu": cpu})
    return found


def memory_fitted(points: Iterable[Point]) -> list[Point]:
    """Give the points of memory that a law may see."""
    return [
        point
        for point in points
        if (point.settings["kind"], point.settings["items"]) not in memory.HELD_OUT
    ]


def work_of(step: dict[str, Any]) -> Work:
    """Give what the requests of a step ask of the model."""
    return Work(items=step["items"], candidates=step["candidates"], search=step["search"])


def users_a_call(step: dict[str, Any]) -> float:
    """Give the mean users in a call, and 1 where there was none."""
    calls = {float(size): count for size, count in step.get("calls", {}).items()}
    total = sum(calls.values())
    return sum(size * count for size, count in calls.items()) / total if total else 1.0


def _is_fitted(point: Point) -> bool:
    return not point.settings["held_out"]


def _base(points: Iterable[Point]) -> Base:
    declared = mode(point.settings["features"] for point in points)
    return Base(
        items=kernels.BASE.items, candidates=kernels.BASE.candidates,
        history=kernels.BASE.history, features=declared, users=store.BASE_USERS,
    )  # fmt: skip


def _is_base(settings: dict[str, Any], but: str = "features") -> bool:
    wanted = {
        "items": kernels.BASE.items, "search": kernels.BASE.search,
        "candidates": kernels.BASE.candidates, "history": kernels.BASE.history,
    }  # fmt: skip
    return all(settings[name] == value for name, value in wanted.items() if name != but)


def _kernel(points: Sequence[Point], batch: int, base: Base) -> Kernel:
    mine = [point for point in points if point.settings["batch"] == batch]

    def axis(name: str, stage: str) -> PowerLaw:
        some = [
            point for point in mine
            if _is_base(point.settings, but=name)
            and (name == "features" or point.settings["features"] == base.features)
        ]  # fmt: skip
        return fit_power_law(
            [point.settings[name] for point in some],
            [point.values[stage] for point in some],
        )

    def items(search: str) -> PowerLaw:
        some = [
            point for point in mine
            if point.settings["search"] == search and point.settings["items"] >= base.items
            and point.settings["candidates"] == base.candidates
            and point.settings["history"] == base.history
            and point.settings["features"] == base.features
        ]  # fmt: skip
        return fit_power_law(
            [point.settings["items"] for point in some],
            [point.values["retrieve"] for point in some],
        )

    rest = median(
        (point.values["answer"] - sum(point.values[s] for s in ("prepare", "retrieve", "rank")))
        for point in mine
    )
    return Kernel(
        batch=batch, prepare_history=axis("history", "prepare"),
        retrieve_items={search: items(search) for search in ("exact", "approximate")},
        retrieve_candidates=axis("candidates", "retrieve"),
        retrieve_history=axis("history", "retrieve"),
        rank_candidates=axis("candidates", "rank"), rank_history=axis("history", "rank"),
        rank_features=axis("features", "rank"), rest=max(rest, 0.0),
    )  # fmt: skip


def _law(
    points: Iterable[Point], x: str, y: str, exponent: float | None = None, **settings: object
) -> PowerLaw:
    some = [
        point for point in points
        if all(point.settings[name] == value for name, value in settings.items())
    ]  # fmt: skip
    return fit_power_law(
        [(point.settings | point.values)[x] for point in some],
        [point.values[y] for point in some],
        exponent=exponent,
    )


def _store(points: Sequence[Point]) -> dict[str, Any]:
    users, deeds = {"users": store.BASE_USERS}, {"events": store.BASE_EVENTS}
    return {
        "user_bytes": _law(points, "events", "bytes_a_user", **users),
        "user_bytes_by_users": _law(points, "users", "bytes_a_user", **deeds),
        "read_redis_ms": _law(points, "users", "read_redis_ms", **deeds),
        "read_bytes": _law(points, "events", "read_bytes", **users),
    }


def _stream(points: Sequence[Point]) -> dict[str, Any]:
    every = [point for point in points if point.settings["views"] == "all"]
    return {
        "worker_us": median(point.values["worker_us"] for point in every),
        "redis_event_us": median(point.values["redis_us"] for point in every),
        "kafka_event_us": median(
            (point.values["kafka_write_us"] + point.values["kafka_read_us"]) for point in every
        ),
        "kafka_event_bytes": median(point.values["kafka_bytes"] for point in every),
    }


def _of_system(points: Iterable[Point], what: Callable[[dict[str, Any]], float]) -> float:
    return float(median(what(point.values) for point in points if "rss_mib" in point.values))


def _idle(steps: Iterable[dict[str, Any]], part: str) -> float:
    idle = [step["cpu"][part] for step in steps if step["rate"] == 0.0 and "posts" not in step]
    return float(median(idle))


def _events(points: Iterable[Point], steps: Sequence[dict[str, Any]]) -> dict[str, EventLaw]:
    taken = [
        step for point in points if point.name == "events" for step in steps_of(point)
    ]  # fmt: skip
    found = {}
    for part in PARTS:
        # Counted until a second after the last was sent; what a second of idling takes is known.
        above = np.array(
            [
                max(step["cpu"][part] - _idle(steps, part), 1e-3)
                * step["seconds"] / step["busy_s"]
                for step in taken
            ]
        )  # fmt: skip
        columns = np.array([[step["posts"], step["events"]] for step in taken])
        post, event = fit_line(columns, above)
        found[part] = EventLaw(post=float(post), event=float(event))
    return found


def _with_system(laws: Laws, steps: Sequence[dict[str, Any]]) -> Laws:
    """Give the laws with those of the running system.

    What the model server takes is idling, arithmetic (known but for how cold its caches are) and
    something for each request; what other parts take depends on the rate.
    """
    asked = [step for step in steps if is_full(step)]
    call_one = [call_ms(laws, work_of(step), 1.0) for step in asked]
    in_calls = [
        call_ms(laws, work_of(step), users_a_call(step)) / users_a_call(step) for step in asked
    ]
    rates = np.array([step["rate"] for step in asked])
    server = np.array([step["cpu"]["model server"] for step in asked])
    idle = _idle(steps, "model server")
    arithmetic = rates * np.array(in_calls)
    columns = np.stack([arithmetic, arithmetic * (1 - server / 1e3), rates], axis=1)
    warm, cold, each = fit_line(columns, server - idle).tolist()
    offered = rates * np.array(call_one) / 1e3
    found = np.array(
        [idle + in_service_ms(warm, cold, idle, one, each * rate)
         for one, rate in zip(arithmetic.tolist(), rates.tolist(), strict=True)]
    )  # fmt: skip
    more = np.array([max(users_a_call(step) - 1.0, 1e-3) for step in asked])
    parts = {
        "model server": PartLaw(
            idle=idle,
            by_rate=PowerLaw(
                fixed=0.0, factor=each, exponent=1.0, exponent_low=None,
                exponent_high=None, x_low=float(rates.min()), x_high=float(rates.max()),
                error=0.0,
            ),
            error=_error(found, server),
        )
    }  # fmt: skip
    for part in PARTS:
        if part == "model server":
            continue
        idle = _idle(steps, part)
        spent = np.array([step["cpu"][part] for step in asked])
        law = fit_power_law(rates.tolist(), spent.tolist())
        found = np.array([law(rate) for rate in rates.tolist()])
        parts[part] = PartLaw(idle=idle, by_rate=law, error=_error(found, spent))
    return msgspec.structs.replace(
        laws, warm=warm, cold=cold, parts=parts,
        call_users=fit_power_law(offered.tolist(), more.tolist()),
    )  # fmt: skip


def _error(found: Any, measured: Any) -> float:
    return float(np.median(np.abs(found - measured) / measured))
