"""An objective as it is written: ``p99<50ms,errors<0.1%``; and whether a step holds it.

Left of ``<`` stands ``p50`` … ``p99.9``, ``max`` or ``mean`` (a time with its unit: us, ms, s), or
``errors`` or ``degraded`` (a share, with ``%`` or without). ``errors`` are requests that were
refused, failed or were not answered in time; ``degraded`` ones were answered, but from a lower rung
than ``full``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_CLAUSE = re.compile(r"\s*([a-z]+|p\d+(?:\.\d+)?)\s*(<=?)\s*(\d+(?:\.\d+)?)\s*(us|ms|s|%)?\s*")
_TIME_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SHARES = ("errors", "degraded")
_HOW = "wanted clauses such as p99<50ms, mean<10ms, errors<0.1% or degraded<1%, joined by commas"


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One bound."""

    name: str
    """``p99``, ``max``, ``mean``, ``errors`` or ``degraded``."""
    bound: float
    """Milliseconds, or a share from 0 to 1."""
    may_equal: bool
    text: str

    @property
    def is_share(self) -> bool:
        """Whether it is of requests and not of time."""
        return self.name in _SHARES

    def holds(self, found: float) -> bool:
        """Say whether a figure keeps within the bound; NaN does not."""
        return found <= self.bound if self.may_equal else found < self.bound


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Several bounds that all have to hold."""

    clauses: tuple[Clause, ...]
    text: str

    def percentiles(self) -> tuple[float, ...]:
        """Give the percentiles it asks for."""
        return tuple(float(c.name[1:]) for c in self.clauses if re.match(r"p\d", c.name))

    def missed(self, figures: Mapping[str, float]) -> list[str]:
        """Say what does not hold, of figures by the clauses' names; empty when all does."""
        said = []
        for clause in self.clauses:
            found = figures[clause.name]
            if clause.holds(found):
                continue
            shown = f"{100 * found:.3g} %" if clause.is_share else f"{found:.1f} ms"
            said.append(f"{clause.name} {'unknown' if math.isnan(found) else shown}")
        return said


def parse_objective(text: str) -> Objective:
    """Read an objective. Raises ValueError saying what was wanted and found."""
    clauses = []
    for part in text.split(","):
        found = _CLAUSE.fullmatch(part)
        if found is None:
            raise ValueError(f"{_HOW}; found {part.strip()!r}")
        name, less, number, unit = found.groups()
        value = float(number)
        if name in _SHARES:
            if unit not in ("%", None):
                raise ValueError(f"wanted a share for {name}, as in {name}<0.1%; found {part!r}")
            bound = value / 100 if unit == "%" else value
        elif name in ("max", "mean") or re.match(r"p\d", name):
            if unit not in _TIME_MS:
                raise ValueError(f"wanted a time with us, ms or s in {part.strip()!r}")
            if name[0] == "p" and not 0 < float(name[1:]) <= 100:
                raise ValueError(f"wanted a percentile above 0 and at most 100, found {name}")
            bound = value * _TIME_MS[unit]
        else:
            raise ValueError(f"{_HOW}; found {name!r} in {part.strip()!r}")
        clauses.append(Clause(name=name, bound=bound, may_equal=less == "<=", text=part.strip()))
    return Objective(clauses=tuple(clauses), text=",".join(c.text for c in clauses))
