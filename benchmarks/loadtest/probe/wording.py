"""Figures and warnings of a probe in words, for the terminal and the page."""

from __future__ import annotations

import math

from benchmarks.loadtest.probe.result import Path, ProbeResult


def spelt(path: Path, figure: str, found: dict[str, float | None] | None = None) -> str:
    """Give a percentile as it is read: what was not seen is more than it was watched."""
    values = path.at_most_ms if found is None else found
    value = values.get(figure)
    if value is None and path.num_watched:
        return f">{math.floor(path.longest_ms):,}"
    return shown_ms(value)


def shown_ms(value: float | None) -> str:
    """Give milliseconds, to a tenth below a hundred."""
    if value is None:
        return ""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def notes_on(result: ProbeResult) -> list[str]:
    """Give what the reader must know before believing a figure."""
    notes = []
    if result.interrupted:
        notes.append("Interrupted: figures are of what was sent until then; what was still looked "
                     "for counts as longer than it was watched.")  # fmt: skip
    for name, path in result.paths.items():
        if path.lost:
            notes.append(f"{name}: {path.lost} not seen in {result.settings['timeout_s']:g} s "
                         f"(tracers {_numbers(result, name, 'lost')}).")  # fmt: skip
        if path.refused and name != "accepted":
            why = next(o.reason for o in result.observations if o.outcome == "refused")
            notes.append(f"{name}: {path.refused} events were not accepted ({why}).")
        if path.untried:
            reasons = {o.reason for o in result.observations
                       if o.path == name and o.outcome == "untried"}  # fmt: skip
            notes.append(f"{name}: {path.untried} not tried ({'; '.join(sorted(reasons))}).")
    asked = result.asked
    if asked.unusable:
        notes.append(f"{asked.unusable} of {asked.questions} answers were of no use: failed, or "
                     "from a lower rung than full.")  # fmt: skip
    if result.items_cleared:
        notes.append(f"{result.items_cleared} items that an earlier run had left were withdrawn.")
    if result.items_left:
        notes.append(f"{len(result.items_left)} items were not seen to be gone at the end: "
                     f"{', '.join(result.items_left[:5])}; run it again.")  # fmt: skip
    load = result.background
    if load is not None and (load.given_up or load.errors or load.is_late):
        late = f", generator {load.generator_late_p99_ms:.0f} ms late at p99"
        notes.append(f"The load beside it: {100 * load.errors:.2f} % errors"
                     + (", given up because too many waited" if load.given_up else "")
                     + (late if load.is_late else "") + ".")  # fmt: skip
    return notes


def _numbers(result: ProbeResult, path: str, outcome: str) -> str:
    found = [o.tracer for o in result.observations if (o.path, o.outcome) == (path, outcome)]
    return ", ".join(map(str, found[:10])) + (", …" if len(found) > 10 else "")
