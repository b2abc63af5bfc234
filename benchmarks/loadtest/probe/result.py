"""What a probe found, as it is written to disk: JSON with a version.

Times are milliseconds from before an event is sent; ``sent_s`` counts from the beginning of the
run. What was lost or interrupted is in the percentiles as longer than it was watched for
(``censored.py``); one that is ``null`` is beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from benchmarks.loadtest.probe.censored import figures
from benchmarks.loadtest.result import Step

SCHEMA = "recsys-probe/1"
PERCENTILES = (50.0, 90.0, 99.0)
PATHS = {
    "accepted": "event → in the log, says the API",
    "features": "click → in the user's features",
    "answer": "click → the user's answer is another",
    "created": "item created → in an answer",
    "withdrawn": "item withdrawn → in no answer",
}
"""What is measured, by name."""

Outcome = Literal["seen", "lost", "interrupted", "refused", "untried"]


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event on one path."""

    path: str
    tracer: int
    outcome: Outcome
    """``refused``: not accepted, so nothing was to be seen. ``untried``: what it takes to see it
    was not there."""
    sent_s: float
    accepted_ms: float | None = None
    at_least_ms: float = 0.0
    """The last question that was answered without the change was asked then."""
    at_most_ms: float | None = None
    """The first answer with the change had come; ``null`` unless it was seen."""
    watched_ms: float = 0.0
    """How long it was looked for, where it was not seen."""
    num_asked: int = 0
    num_unusable: int = 0
    reason: str = ""
    """Why it was refused, or not tried."""


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """One path in figures."""

    sent: int
    seen: int
    lost: int
    refused: int
    interrupted: int
    untried: int
    at_most_ms: dict[str, float | None]
    """``p50`` … ``max`` by the first answers that showed the change: the figures to go by."""
    at_least_ms: dict[str, float | None]
    """The same by the last questions whose answers did not: the truth lies between."""
    since_accepted_ms: dict[str, float | None]
    """``at_most_ms`` counted from when the event was accepted."""
    width_ms: dict[str, float | None]
    """Between the two, of each that was seen: the resolution of the measurement."""
    longest_ms: float
    """The longest that was watched for in vain; 0: nothing was."""

    @property
    def num_watched(self) -> int:
        """Events that were accepted and looked for."""
        return self.seen + self.lost + self.interrupted


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the looking cost."""

    questions: int
    per_s: float
    mean_ms: float
    """From a question to its answer, the connection included."""
    unusable: int
    """Failed, or answered from a lower rung."""
    cores: float
    """Used by the probe itself: CPU seconds a second."""


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run."""

    schema: str = SCHEMA
    target: str
    began: str
    """UTC, ISO 8601."""
    duration_s: float
    """From the first tracer to the last look."""
    commit: str
    """Of the checkout that measured, ``+`` where files differed from it; empty outside one."""
    versions: dict[str, str]
    machine: dict[str, str]
    settings: dict[str, float | int | str]
    objective: str
    missed: list[str]
    """What of the objective does not hold."""
    interrupted: bool
    paths: dict[str, Path]
    asked: Asked
    items_cleared: int
    """Tracers' items of earlier runs that were still offered, withdrawn at the beginning."""
    items_left: list[str]
    """Tracers' items of this run that were not seen to be gone at the end."""
    background: Step | None
    """The load that was sent meanwhile."""
    observations: list[Observation]


def summarise(
    observations: Sequence[Observation], more_percentiles: Sequence[float] = ()
) -> dict[str, Path]:
    """Give each path's figures; ``more_percentiles`` beside the usual ones."""
    wanted = sorted({*PERCENTILES, *more_percentiles})
    return {name: _path([o for o in observations if o.path == name], wanted) for name in PATHS}


def _path(found: Sequence[Observation], wanted: Sequence[float]) -> Path:
    counts = {outcome: sum(o.outcome == outcome for o in found) for outcome in OUTCOMES}
    watched = [o for o in found if o.outcome in ("seen", "lost", "interrupted")]
    ended = [o.at_most_ms is not None for o in watched]
    at_most = [o.watched_ms if o.at_most_ms is None else o.at_most_ms for o in watched]
    at_least = [o.watched_ms if o.at_most_ms is None else o.at_least_ms for o in watched]
    accepted = [o.accepted_ms or 0.0 for o in watched]
    since = [max(most - at, 0.0) for most, at in zip(at_most, accepted, strict=True)]
    widths = [o.at_most_ms - o.at_least_ms for o in watched if o.at_most_ms is not None]
    return Path(
        sent=len(found) - counts["untried"], seen=counts["seen"], lost=counts["lost"],
        refused=counts["refused"], interrupted=counts["interrupted"], untried=counts["untried"],
        at_most_ms=_rounded(figures(at_most, ended, wanted)),
        at_least_ms=_rounded(figures(at_least, ended, wanted)),
        since_accepted_ms=_rounded(figures(since, ended, wanted)),
        width_ms=_rounded(figures(widths, [True] * len(widths), (50.0,))),
        longest_ms=max((o.watched_ms for o in watched if o.at_most_ms is None), default=0.0),
    )  # fmt: skip


OUTCOMES: tuple[Outcome, ...] = ("seen", "lost", "interrupted", "refused", "untried")


def _rounded(found: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 2) for name, value in found.items()}


def encode(result: ProbeResult) -> bytes:
    """Give the JSON, readable."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1)
