"""An objective of freshness: ``answer.p99<1s,created.p99<2s``; and whether a run holds it.

Each clause names a path, then a percentile or ``max`` as ``slo.py`` reads it. Judged is what could
have been at worst: the first answer that showed a change, not the last that did not. A percentile
that was not seen to end is beyond any bound, so the clauses judge losses too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.loadtest.probe.result import PATHS, Path
from benchmarks.loadtest.slo import Clause, parse_objective


@dataclass(frozen=True, kw_only=True)
class PathClause:
    """One bound."""

    path: str
    clause: Clause
    text: str


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Several bounds that all have to hold."""

    clauses: tuple[PathClause, ...]
    text: str

    def percentiles(self) -> tuple[float, ...]:
        """Give the percentiles it asks for."""
        names = {clause.clause.name for clause in self.clauses} - {"max"}
        return tuple(sorted(float(name[1:]) for name in names))

    def bound_of(self, path: str) -> tuple[float, str] | None:
        """Give the tightest bound on a path, in milliseconds, and its words."""
        bounds = [(c.clause.bound, c.text) for c in self.clauses if c.path == path]
        return min(bounds, default=None)

    def missed(self, paths: Mapping[str, Path]) -> list[str]:
        """Say what does not hold; empty when all does."""
        said = []
        for clause in self.clauses:
            path = paths[clause.path]
            found = path.at_most_ms.get(clause.clause.name)
            if found is not None and clause.clause.holds(found):
                continue
            if found is not None:
                shown = f"{found:.1f} ms"
            elif path.num_watched:
                shown = f"over {path.longest_ms:.0f} ms, {path.lost} of {path.num_watched} lost"
            else:
                shown = "nothing was measured"
            said.append(f"{clause.path}.{clause.clause.name} {shown}")
        return said


def parse_freshness(text: str) -> Freshness:
    """Read an objective. Raises ValueError saying what was wanted and found."""
    clauses = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([a-z]+)\.(.*)", part)
        if found is None or found[1] not in PATHS:
            raise ValueError(
                f"wanted clauses such as answer.p99<1s or created.max<2s, joined by commas, with a "
                f"path of {', '.join(PATHS)}; found {part.strip()!r}"
            )
        (clause,) = parse_objective(found[2]).clauses
        if clause.is_share or clause.name == "mean":
            raise ValueError(
                f"wanted a percentile or max after {found[1]}. (what is lost has no mean, and "
                f"counts as beyond every bound), found {clause.name!r} in {part.strip()!r}"
            )
        text_of_it = f"{found[1]}.{clause.text}"
        clauses.append(PathClause(path=found[1], clause=clause, text=text_of_it))
    return Freshness(clauses=tuple(clauses), text=",".join(c.text for c in clauses))
