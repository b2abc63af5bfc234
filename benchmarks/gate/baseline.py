"""The committed ratios, by processor: ``benchmarks/gate/baseline.json``."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from recsys.errors import InputError

PATH = Path(__file__).with_name("baseline.json")
MOST = 40
"""Repeats that are kept of a processor; the oldest go."""


class Repeats(msgspec.Struct, kw_only=True):
    """What one kind of processor gave."""

    dates: list[str]
    """Of each repeat, UTC."""
    versions: dict[str, str]
    ratios: dict[str, list[float]]
    """By case, one for each repeat; ours over the reference."""


class Baseline(msgspec.Struct, kw_only=True):
    """All of it."""

    schema: str = "recsys-gate-baseline/1"
    processors: dict[str, Repeats] = {}


def load(path: Path = PATH) -> Baseline:
    """Read it. Raises InputError when it is none."""
    if not path.exists():
        return Baseline()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Baseline)
    except msgspec.DecodeError as error:
        raise InputError(
            f"wanted the gate's baseline in {path.name}, found: {error}; take it from git again"
        ) from error


def add(
    repeat: dict[str, float], *, processor: str, date: str, versions: dict[str, str], path: Path
) -> None:
    """Add one repeat and write the file anew, whole or not at all.

    Where cases came or went, or versions changed, what was measured before says nothing of now: the
    processor begins anew.
    """
    baseline = load(path)
    known = baseline.processors.get(processor)
    if known is None or set(known.ratios) != set(repeat) or known.versions != versions:
        known = Repeats(dates=[], versions=versions, ratios={name: [] for name in repeat})
    known.dates = [*known.dates, date][-MOST:]
    for name, ratio in repeat.items():
        known.ratios[name] = [*known.ratios[name], ratio][-MOST:]
    baseline.processors[processor] = known
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n")
    fresh.replace(path)
