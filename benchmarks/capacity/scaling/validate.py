"""What the laws say of configurations that none of them has seen, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.capacity.scaling.build import is_full, steps_of, users_a_call, work_of
from benchmarks.capacity.scaling.laws import PARTS, Laws
from benchmarks.capacity.scaling.points import Point
from benchmarks.capacity.scaling.predict import call_users, cpu_ms_a_second

BAR = 0.15


def validate(points: Sequence[Point], laws: Laws) -> list[dict[str, Any]]:
    """Give for each held-out configuration and rate: measured, predicted, and the differences.

    Measured is the median of the repeats. Nothing of these points has entered a law.
    """
    steps = [
        step
        for point in points
        if point.study == "system" and point.settings["held_out"]
        for step in steps_of(point)
        if is_full(step)
    ]
    # Arrivals are drawn, so a rate that was asked for is met within a few in a hundred.
    groups: dict[tuple[int, int, float], list[dict[str, Any]]] = {}
    for step in steps:
        groups.setdefault((step["items"], step["candidates"], step["asked"]), []).append(step)
    return [
        _compared(group, laws) | _memory(points, laws, group[0])
        for _, group in sorted(groups.items())
    ]


def _memory(points: Sequence[Point], laws: Laws, step: dict[str, Any]) -> dict[str, Any]:
    """Compare the memory of a model server's process of that catalogue, where it was measured."""
    kind, items = work_of(step).kind, step["items"]
    found = [
        point.values["bytes"] / 2**20
        for point in points
        if point.study == "memory"
        and (point.settings["kind"], point.settings["items"]) == (kind, items)
    ]
    if not found:
        return {}
    predicted, measured = laws.model_bytes[kind](items) / 2**20, median(found)
    return {
        "memory_mib": round(measured, 1), "memory_mib_predicted": round(predicted, 1),
        "memory_error": round(predicted / measured - 1.0, 3),
    }  # fmt: skip


def _compared(steps: list[dict[str, Any]], laws: Laws) -> dict[str, Any]:
    work, rate = work_of(steps[0]), median(step["rate"] for step in steps)
    measured = {
        part: median(step["cpu"][part] / step["rate"] for step in steps) for part in PARTS
    }  # fmt: skip
    predicted = {part: cpu_ms_a_second(laws, part, work, rate) / rate for part in PARTS}
    measured["all"] = median(sum(step["cpu"].values()) / step["rate"] for step in steps)
    predicted["all"] = sum(predicted[part] for part in PARTS)
    return {
        "items": work.items, "search": work.kind, "candidates": work.candidates,
        "rate": round(rate, 1), "repeats": len(steps),
        "measured_ms": {name: round(value, 3) for name, value in measured.items()},
        "predicted_ms": {name: round(value, 3) for name, value in predicted.items()},
        "error": {
            name: round(predicted[name] / measured[name] - 1.0, 3) for name in measured
            if measured[name] > 0
        },
        "lowest_ms": round(min(sum(s["cpu"].values()) / s["rate"] for s in steps), 3),
        "highest_ms": round(max(sum(s["cpu"].values()) / s["rate"] for s in steps), 3),
        "users_a_call": round(median(users_a_call(step) for step in steps), 3),
        "users_a_call_predicted": round(call_users(laws, work, rate), 3),
        "p99_ms": median(step["p99_ms"] for step in steps),
    }  # fmt: skip
