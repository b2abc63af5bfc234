"""What was measured of a real system, as it is kept: service figures, and the curve over rate.

The two are apart on purpose. A profile is made of the service figures and one low rate of the
curve (``calibrate.py``); the other rates are what a simulation has to predict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from recsys.errors import InputError

SCHEMA = "recsys-service-figures/1"
QUANTILES = (5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0)
"""Kept of every measured time."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Times of something that was done again and again."""

    count: int
    mean_ms: float
    quantiles_ms: dict[str, float]
    """By percentile: ``"5"`` … ``"99"``."""


class Callers(msgspec.Struct, frozen=True, kw_only=True):
    """Callers of the whole system who ask again after a pause."""

    callers: int
    pause_ms: float
    whole: Times
    features: Times
    """Reading features, as the API says (``Server-Timing``)."""
    recommend: Times
    """Its call of the model server, waiting for its turn included."""
    users_a_call: float
    """Mean users in a call of the model server."""
    elapsed_s: float
    cpu_ms_a_request: dict[str, float]
    """By part, what it spends while idle taken off."""


class ModelCalls(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of the model server alone, one at a time, over a connection of our own."""

    users: int
    pause_ms: float
    wall: Times
    cpu_ms_a_call: dict[str, float]
    """By part, what it spends while idle taken off."""


class Stalls(msgspec.Struct, frozen=True, kw_only=True):
    """A loop that only looks at the clock, and how often somebody else had its core."""

    watched_s: float
    lengths_ms: list[float]
    """Of the gaps longer than ``least_ms``, in order of time."""
    least_ms: float


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """One rate of the curve: Poisson arrivals in an open loop."""

    rate: float
    duration_s: float
    sent: int
    latency_ms: dict[str, float]
    histogram: str
    """HdrHistogram of microseconds, as in a load test's result."""
    answers: dict[str, int]
    generator_late_p99_ms: float
    cpu_s: dict[str, float]
    """By part; ``generator`` is the load generator."""
    stages_ms: dict[str, float]
    """Mean of each stage for a request."""
    model_calls_by_users: dict[str, int]
    others_cores: float
    """CPU seconds a second of everything on the machine that is not in ``cpu_s``."""
    stolen: float
    """Share of the cores' time that other guests of the host had."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All of one measurement."""

    schema: str = SCHEMA
    machine: dict[str, Any]
    commit: str
    measured_at: str
    """UTC, ISO 8601."""
    seed: int
    items: int
    sources: str
    idle_cores: dict[str, float]
    """CPU seconds a second of each part while nobody asks."""
    others_idle_cores: float
    """The same of everything else on the machine."""
    two_at_once: float
    """How much longer the same computation takes while the other core computes too."""
    speeds: list[float] = []
    """How fast one and the same computation was, quarter second by quarter second, as multiples of
    the mean; the time that it had a core counts."""
    stalls: Stalls
    callers: list[Callers]
    model_calls: list[ModelCalls]
    kernel_ms_a_user: dict[str, float]
    curve: list[Rate]


def write(measured: Measured, path: Path) -> None:
    """Write it, readable."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")


def read(path: Path) -> Measured:
    """Read it. Raises InputError when there is none, or of another version."""
    try:
        measured = msgspec.json.decode(path.read_bytes(), type=Measured)
    except OSError as error:
        raise InputError(f"wanted a measurement in {path}, found: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{path}: wanted what `python -m benchmarks.capacity.simulation measure` writes, "
            f"found: {error}"
        ) from error
    if measured.schema != SCHEMA:
        raise InputError(
            f"{path}: wanted the schema {SCHEMA}, found {measured.schema!r}; measure it again"
        )
    return measured
