"""The definitions of ``aggregates.py`` and ``recency.py`` written as plainly as can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.features.aggregation import Aggregate
from recsys.features.event_rows import QUANTUM
from recsys.features.names import HISTORY_EVENTS, HISTORY_LENGTH, identity_hash
from recsys.features.view import View

DERIVED = ("ratio", "last_n")


@dataclass(frozen=True)
class Seen:
    """One (event, item) of one entity."""

    time_ms: int
    kind: str
    type: str
    value: float
    item_id: str = ""
    category: str = ""


def chosen_at(aggregate: Aggregate, events: Sequence[Seen], t: int) -> list[tuple[int, int]]:
    """Give (time, what the column takes) of the events that count at ``t``, in that order."""
    slide = aggregate.slide_ms
    taken = {
        None: lambda e: round(e.value / QUANTUM),
        "item_id": lambda e: identity_hash(e.item_id),
        "category": lambda e: identity_hash(e.category),
    }[aggregate.field]
    return sorted(
        (e.time_ms, taken(e))
        for e in events
        if e.kind == aggregate.kind
        and aggregate.event_type in (None, e.type)
        and (aggregate.field != "category" or e.category)
        and e.time_ms <= t
        and (e.time_ms // slide) * slide > (t // slide) * slide - aggregate.window_ms
    )


def value_at(aggregate: Aggregate, events: Sequence[Seen], t: int) -> float:
    chosen = chosen_at(aggregate, events, t)
    if not chosen:
        return 0.0
    name, duration = aggregate.call.name, aggregate.call.duration_ms
    if name == "count_distinct":
        return float(np.float32(_distinct(chosen, aggregate.slide_ms)))
    if name.startswith("decayed"):
        return float(np.float32(_decayed(chosen, aggregate, t)))
    if name.startswith("session"):
        session: list[tuple[int, int]] = []
        for event in chosen:
            if session and event[0] - session[-1][0] >= duration:
                session = []
            session.append(event)
        chosen = session if t - session[-1][0] < duration else []
        name = name.removeprefix("session_")
    values = [v for _, v in chosen]
    if not values:
        return 0.0
    total = sum(values) * QUANTUM
    answer = {
        "count": float(len(values)),
        "sum": total,
        "mean": total / len(values),
        "min": min(values) * QUANTUM,
        "max": max(values) * QUANTUM,
        "first": chosen[0][1] * QUANTUM,
        "last": chosen[-1][1] * QUANTUM,
    }[name]
    return float(np.float32(answer))


def values_of(view: View, events: Sequence[Seen], t: int) -> list[float]:
    """Give every scalar of a view; a ratio is made of the others as they are read."""
    found = {a.name: value_at(a, events, t) for a in view.aggregates if a.call.name not in DERIVED}
    for a in view.scalar_aggregates:
        if a.call.name == "ratio":
            above, below = (found[name] for name in a.call.operands)
            found[a.name] = float(np.float32(above / below)) if below else 0.0
    return [found[a.name] for a in view.scalar_aggregates]


def list_at(aggregate: Aggregate, events: Sequence[Seen], t: int) -> list[int] | list[float]:
    newest = [taken for _, taken in chosen_at(aggregate, events, t)][-aggregate.call.length :]
    if aggregate.field:
        return newest
    return [float(np.float32(units * QUANTUM)) for units in newest]


def _decayed(chosen: list[tuple[int, int]], aggregate: Aggregate, t: int) -> float:
    slide, half_life = aggregate.slide_ms, aggregate.call.duration_ms
    answer = 0.0
    for tile in sorted({time // slide for time, _ in chosen}):
        units = [v for time, v in chosen if time // slide == tile]
        counted = aggregate.call.name == "decayed_count"
        amount = float(len(units)) if counted else sum(units) * QUANTUM
        answer += amount * 2.0 ** (-((t // slide - tile) * slide) / half_life)
    return answer


def _distinct(chosen: list[tuple[int, int]], slide: int) -> int:
    """Count exactly while no tile has more than 32; else estimate as Ertl (2017) says."""
    tiles: dict[int, set[int]] = {}
    for time, identity in chosen:
        tiles.setdefault(time // slide, set()).add(identity)
    union = set().union(*tiles.values())
    if max(len(tile) for tile in tiles.values()) <= 32:
        return len(union)
    registers = [0] * 512
    for identity in union:
        x = _splitmix64(identity % 2**64)
        bits = format(x % 2**55, "055b")
        zeros = len(bits) - len(bits.lstrip("0"))
        registers[x >> 55] = max(registers[x >> 55], zeros + 1)
    counts = [registers.count(k) for k in range(57)]
    z = 512 * _tau(1 - counts[56] / 512)
    for k in range(55, 0, -1):
        z = 0.5 * (z + counts[k])
    z += 512 * _sigma(counts[0] / 512)
    return round(512 * 512 / (2 * math.log(2)) / z)


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def _sigma(x: float) -> float:
    if x == 1:
        return math.inf
    total, power, factor = x, x, 1.0
    for _ in range(64):
        power *= power
        total += power * factor
        factor += factor
    return total


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    total, factor = 1 - x, 1.0
    for _ in range(64):
        x = math.sqrt(x)
        factor *= 0.5
        total -= (1 - x) ** 2 * factor
    return total / 3


def history_at(events: Sequence[Seen], t: int) -> list[tuple[str, int, int]]:
    """Give (item, count, last_ms), least recent first."""
    acted = sorted(
        (e.time_ms, identity_hash(e.item_id), e.item_id)
        for e in events
        if e.kind == "interaction" and e.time_ms <= t
    )[-HISTORY_EVENTS:]
    latest = {item: (time, h) for time, h, item in acted}
    items = sorted(latest, key=lambda item: latest[item])[-HISTORY_LENGTH:]
    return [(i, sum(x == i for _, _, x in acted), latest[i][0]) for i in items]
