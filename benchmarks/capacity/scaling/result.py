"""The study's result as it is kept: laws, points of every axis, what was held out."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from statistics import median, mode
from typing import Any

import msgspec

from benchmarks import machine
from benchmarks.capacity.scaling import events, kernels, store
from benchmarks.capacity.scaling.build import (
    build,
    is_full,
    memory_fitted,
    steps_of,
    users_a_call,
)
from benchmarks.capacity.scaling.fit import PowerLaw, fit_power_law
from benchmarks.capacity.scaling.kept import NAME
from benchmarks.capacity.scaling.laws import PARTS
from benchmarks.capacity.scaling.points import Point
from benchmarks.capacity.scaling.validate import BAR, validate
from benchmarks.suite.record import Record
from recsys.errors import InputError

_RESAMPLES = 200


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """One curve: what grew, what was measured, and the law it follows."""

    name: str
    x: str
    y: str
    points: list[list[float]]
    """``[x, median, least, greatest]``."""
    law: PowerLaw | None
    """None where too few sizes were measured."""


def make_record(points: Sequence[Point]) -> Record:
    """Fit and predict. Raises InputError while points are missing."""
    laws = build(points)
    compared = validate(points, laws)
    worst = _worst(compared)
    began = min(point.at for point in points)
    at = datetime.datetime.fromtimestamp(began, datetime.UTC)
    commits = sorted({point.commit for point in points})
    return Record(
        benchmark=NAME, command="python -m benchmarks.capacity.scaling fit --state DIR",
        commit=max(points, key=lambda point: point.at).commit,
        date=at.date().isoformat(), started_at=at.isoformat(timespec="seconds"),
        took_s=float(max(point.at for point in points) - began), seed=0,
        machine=machine.describe(), versions=machine.versions(),
        result={
            "benchmark": NAME, "commits": commits, "points": len(points),
            "reference_ms": {
                study: _spread([p.reference_ms for p in points if p.study == study])
                for study in sorted({point.study for point in points})
            },
            "laws": msgspec.to_builtins(laws),
            "axes": msgspec.to_builtins(list(axes(points))),
            "held_out": compared,
            "worst_error": worst, "worst_error_percent": round(100 * abs(worst), 1), "bar": BAR,
        },
    )  # fmt: skip


def _worst(compared: Sequence[dict[str, Any]]) -> float:
    if not compared:
        raise InputError(
            "wanted measured configurations that are held out, found none answered in full; run "
            "`recsys capacity scaling system` until nothing is left"
        )
    return float(max((row["error"]["all"] for row in compared), key=abs))


def summary(record: Record) -> dict[str, Any]:
    """Give what one looks at first: exponents, and how far the predictions were off."""
    exponents = {
        axis["name"]: [axis["law"][key] for key in ("exponent", "exponent_low", "exponent_high")]
        for axis in record.result["axes"]
        if axis["law"]
    }
    held_out = [
        {key: row[key] for key in ("items", "candidates", "rate", "error")}
        for row in record.result["held_out"]
    ]
    return {"exponents": exponents, "held_out": held_out, "commit": record.commit}


def axes(points: Sequence[Point]) -> Iterator[Axis]:
    """Give all curves that are drawn."""
    of = {
        study: [point for point in points if point.study == study]
        for study in ("kernels", "store", "events", "memory", "system")
    }
    yield from _kernel_axes(of["kernels"])
    yield from _store_axes(of["store"])
    for kind, of_what in (
        ("exact", "a model server's process, exact search"),
        ("approximate", "a model server's process, approximate search"),
        ("api", "a process that holds what the API does"),
    ):
        some = [p for p in memory_fitted(of["memory"]) if p.settings["kind"] == kind]
        yield _axis(
            f"memory of {of_what}", "items", "MiB",
            [(p.settings["items"], p.values["bytes"] / 2**20) for p in some], exponent=1.0,
        )  # fmt: skip
    every = [p for p in of["events"] if p.settings["views"] == "all"]
    jobs = [p for p in of["events"] if p.settings["users"] == events.BASE_USERS]
    yield _axis(
        "stream worker", "users", "CPU µs an event",
        [(p.settings["users"], p.values["worker_us"]) for p in every],
    )  # fmt: skip
    yield _axis(
        "stream worker", "features computed", "CPU µs an event",
        [(p.values["features"], p.values["worker_us"]) for p in jobs], fits=False,
    )  # fmt: skip
    yield from _system_axes(of["system"])


def _kernel_axes(points: Sequence[Point]) -> Iterator[Axis]:
    base = {
        "items": kernels.BASE.items, "search": "exact", "candidates": kernels.BASE.candidates,
        "history": kernels.BASE.history,
        "features": mode(p.settings["features"] for p in points),
    }  # fmt: skip

    def of(moved: str, stage: str, batch: int | None, **other: object) -> list[tuple[float, float]]:
        wanted = {name: value for name, value in (base | other).items() if name != moved}
        return [
            (p.settings[moved], p.values[stage])
            for p in points
            if all(p.settings[name] == value for name, value in wanted.items())
            and batch in (None, p.settings["batch"])
        ]

    ms = "CPU ms a call"
    for batch in kernels.BATCHES:
        users = "one user" if batch == 1 else f"{batch} users"
        exact = [at for at in of("items", "retrieve", batch) if at[0] >= kernels.BASE.items]
        yield _axis(f"retrieval, exact, {users}", "items", ms, exact)
        yield _axis(
            f"retrieval, approximate, {users}", "items", ms,
            of("items", "retrieve", batch, search="approximate"),
        )  # fmt: skip
        yield _axis(f"ranking, {users}", "candidates", ms, of("candidates", "rank", batch))
        yield _axis(f"retrieval, {users}", "candidates", ms, of("candidates", "retrieve", batch))
        yield _axis(f"ranking, {users}", "history", ms, of("history", "rank", batch))
        yield _axis(f"retrieval, {users}", "history", ms, of("history", "retrieve", batch))
        yield _axis(f"ranking, {users}", "features of an item", ms, of("features", "rank", batch))
    for batch in kernels.BATCHES:
        users = "one user" if batch == 1 else f"{batch} users"
        whole = [at for at in of("items", "retrieve", batch) if at[0] < kernels.BASE.items]
        yield _axis(f"retrieval, whole catalogue scored, {users}", "items", ms, whole)
    yield _axis("whole answer", "users in a call", "CPU ms a call", of("batch", "answer", None))


def _store_axes(points: Sequence[Point]) -> Iterator[Axis]:
    by_users = [p for p in points if p.settings["events"] == store.BASE_EVENTS]
    by_events = [p for p in points if p.settings["users"] == store.BASE_USERS]
    for said, x, some in (("users", "users", by_users), ("events of a user", "events", by_events)):
        for name, y, key in (
            ("Redis", "bytes a user", "bytes_a_user"),
            ("reading a user, Redis", "CPU ms", "read_redis_ms"),
            ("reading and decoding a user, client", "CPU ms", "read_client_ms"),
        ):
            yield _axis(
                name, said, y,
                [(p.settings[x], p.values[key]) for p in some],
            )  # fmt: skip


def _system_axes(points: Sequence[Point]) -> Iterator[Axis]:
    steps = [
        step
        for point in points
        if not point.settings["held_out"]
        for step in steps_of(point)
        if is_full(step)
    ]
    base = [
        step for step in steps
        if step["items"] == kernels.BASE.items and step["candidates"] == kernels.BASE.candidates
    ]  # fmt: skip
    for part in PARTS:
        yield _axis(
            part, "requests a second", "CPU ms a request",
            [(step["asked"], step["cpu"][part] / step["rate"]) for step in base], fits=False,
        )  # fmt: skip
    yield _axis(
        "users in a call", "requests a second", "users",
        [(step["asked"], users_a_call(step)) for step in base], fits=False,
    )  # fmt: skip


def _axis(
    name: str,
    x: str,
    y: str,
    found: Sequence[tuple[float, float]],
    *,
    fits: bool = True,
    exponent: float | None = None,
) -> Axis:
    groups: dict[float, list[float]] = {}
    for at, value in found:
        groups.setdefault(at, []).append(value)
    rows = [[at, median(v), min(v), max(v)] for at, v in sorted(groups.items())]
    law = None
    if fits and len(rows) >= 3:
        law = fit_power_law(
            [at for at, _ in found],
            [value for _, value in found],
            exponent=exponent,
            resamples=_RESAMPLES,
        )
    return Axis(name=f"{name} by {x}", x=x, y=y, points=rows, law=law)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(median(values), 3), "least": round(min(values), 3),
        "greatest": round(max(values), 3),
    }  # fmt: skip
