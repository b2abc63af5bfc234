"""Measured points on the disk: each is kept the moment it ended, so a run may be stopped any time.

A file of JSON lines, one for each repeat of a point. A line that was cut short by a kill or a full
disk is no point: it is left out when the file is read, and measured again.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import machine
from recsys.errors import RecsysError


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One repeat of one point."""

    study: str
    name: str
    """What was set, readable: ``items 100000, index, batch 8``."""
    repeat: int
    settings: dict[str, Any]
    values: dict[str, Any]
    reference_ms: float
    """CPU time of a fixed piece of work just before: how fast the machine was."""
    commit: str
    at: int
    """Seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A point that is to be measured."""

    name: str
    settings: Mapping[str, Any]
    run: Callable[[], Mapping[str, Any]]


class PointFile:
    """The points of one state folder."""

    def __init__(self, path: Path) -> None:
        """``path`` need not exist."""
        self._path = path

    def read(self, study: str | None = None) -> list[Point]:
        """Give all whole points, or those of one study, in the order they were measured."""
        if not self._path.exists():
            return []
        found = []
        for line in self._path.read_bytes().splitlines():
            try:
                point = msgspec.json.decode(line, type=Point)
            except msgspec.DecodeError:  # cut short
                continue
            if study in (None, point.study):
                found.append(point)
        return found

    def append(self, point: Point) -> None:
        """Keep a point: when this returns it is on the disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            if file.tell() and not _ends_whole(self._path):
                file.write(b"\n")  # after a line that was cut short
            file.write(msgspec.json.encode(point) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def measure_in_turn(
    study: str,
    tasks: Sequence[Task],
    kept: PointFile,
    reference: Callable[[], float],
    *,
    repeats: int,
    minutes: float,
    seed: int,
) -> int:
    """Measure what is missing of ``repeats`` of each task; give how many points are still missing.

    Round by round, each in an order of its own, so that a slow hour falls on all. Nothing new
    begins after ``minutes``. A point that fails is said and tried again in the next run.
    """
    done = Counter(point.name for point in kept.read(study))
    names = {task.name for task in tasks}
    assert len(names) == len(tasks), "two tasks of one name would count as one"
    left = [(n, task) for n in range(repeats) for task in _mixed(tasks, seed + n)]
    left = [(n, task) for n, task in left if done[task.name] <= n]
    commit, end = machine.commit(), time.monotonic() + 60 * minutes
    total = len(left)
    for place, (repeat, task) in enumerate(left):
        if time.monotonic() >= end:
            sys.stderr.write(f"{study}: time is up, {total - place} points are left\n")
            return total - place
        took = time.perf_counter()
        speed = reference()
        try:
            values = dict(task.run())
        except RecsysError as error:
            sys.stderr.write(f"{study}: {task.name}: {error}\n")
            continue
        kept.append(
            Point(
                study=study, name=task.name, repeat=repeat, settings=dict(task.settings),
                values=values, reference_ms=speed, commit=commit, at=int(time.time()),
            )
        )  # fmt: skip
        took = time.perf_counter() - took
        said = " ".join(f"{name} {_short(value)}" for name, value in values.items())
        sys.stderr.write(f"[{place + 1}/{total}] {task.name} ({took:.1f} s): {said[:160]}\n")
    done = Counter(point.name for point in kept.read(study))
    return sum(max(0, repeats - done[name]) for name in names)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mixed(tasks: Sequence[Task], seed: int) -> list[Task]:
    order = np.random.default_rng(seed).permutation(len(tasks))
    return [tasks[place] for place in order.tolist()]
