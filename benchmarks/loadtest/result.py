"""What a load test found, as it is written to disk: JSON with a version.

Times are milliseconds, latency counts from the intended send time. A request without an answer
(refused connection, lost, late beyond ``timeout_s``) counts with the time it could have waited, so
that percentiles do not improve by answers that never came. A refusal (503, 429) counts with the
time it took, and as an error.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from hdrh.histogram import HdrHistogram

from recsys.errors import InputError

SCHEMA = "recsys-loadtest/1"
LATE_MS = 5.0
"""A generator later than this at its 99th percentile measured itself."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """CPU and memory of one part (its children counted in) while a step was measured."""

    cores: float
    """Used on average: CPU seconds a second."""
    busiest_thread: float
    """Share of a core that its busiest thread used."""
    rss_mib: float
    """At the end."""
    grown_mib: float
    """From the first look to the last."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the service says its time went, for each request."""

    mean_ms: float
    p99_ms: float | None
    """``None``: not known."""
    count: float


class Saturation(msgspec.Struct, frozen=True, kw_only=True):
    """What holds a step back."""

    cause: str
    evidence: list[str]


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were due in one second of a step."""

    at_s: int
    due: int
    bad: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request."""

    sent: int
    bad: int
    latency_ms: dict[str, float]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rate, measured."""

    rate: float
    """Requests a second that were to be sent, on average."""
    duration_s: float
    sent: int
    answered_per_s: float
    """Good answers a second."""
    latency_ms: dict[str, float]
    """By ``p50`` … ``max`` and ``mean``."""
    errors: float
    """Share of requests that were refused, failed or had no answer in time."""
    degraded: float
    """Share of requests answered from a lower rung than ``full``."""
    answers: dict[str, int]
    """By status and rung, or what went wrong."""
    kinds: dict[str, Kind]
    seconds: list[Second]
    histogram: str
    """HdrHistogram of microseconds, V2, compressed, base64: any of its libraries adds them up."""
    generator_late_p99_ms: float
    generator_cores: list[float]
    """Used by each sender process."""
    given_up: bool
    """Whether it was ended because more than a second's requests waited."""
    interrupted: bool
    unanswered_at_end: int
    missed: list[str]
    """What of the objective does not hold, or why the step measures nothing."""
    stages: dict[str, Stage] = {}
    processes: dict[str, Process] = {}
    saturation: Saturation | None = None
    grown: dict[str, str] = {}
    """Soak only: whose memory grew, and by how much."""

    @property
    def is_late(self) -> bool:
        """Whether the generator was so late that the step measured the generator."""
        return self.generator_late_p99_ms > LATE_MS

    @property
    def kept(self) -> bool:
        """Whether the objective held, and the generator was in time."""
        return not self.missed


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement, once."""

    seed: int
    steps: list[Step]
    greatest_rate: float | None = None
    """Highest rate that held the objective; ``None``: none did, or none was looked for."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run."""

    schema: str = SCHEMA
    name: str
    target: str
    profile: str
    mix: dict[str, float]
    objective: str
    """Empty: none was given."""
    searched: bool
    """Whether the greatest rate was looked for."""
    began: str
    """UTC, ISO 8601."""
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, float | int | str]
    repeats: list[Repeat]

    def steps(self) -> list[Step]:
        """Give the steps of all repeats."""
        return [step for repeat in self.repeats for step in repeat.steps]


def encode(result: Result) -> bytes:
    """Give the JSON, readable."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1)


def read_result(path: Path) -> Result:
    """Read a result. Raises InputError when it is none, or of another version."""
    try:
        raw = path.read_bytes()
        schema = msgspec.json.decode(raw, type=_SchemaOnly).schema
        if schema != SCHEMA:
            raise InputError(
                f"{path}: wanted a result of schema {SCHEMA}, found {schema!r}; measure it again"
            )
        return msgspec.json.decode(raw, type=Result)
    except OSError as error:
        raise InputError(f"wanted a result in {path}, found: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: wanted a result of `recsys loadtest`, found: {error}") from error


def merged(histograms: list[str]) -> HdrHistogram:
    """Add histograms up."""
    total = HdrHistogram(1, HIGHEST_US, 3)
    for encoded in histograms:
        total.add(HdrHistogram.decode(encoded))
    return total


HIGHEST_US = 3_600_000_000
"""An hour: longer than anybody waits."""


class _SchemaOnly(msgspec.Struct):
    schema: str = ""
