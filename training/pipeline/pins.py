"""What a run holds on to from its beginning."""

from __future__ import annotations

from dataclasses import dataclass

from training.source import Positions


@dataclass(frozen=True, kw_only=True)
class Pins:
    """Facts of the beginning, so that going on after a kill is the same run."""

    run: str
    started_ms: int
    positions: Positions
    """Where the logs of events and exposures ended."""
    champion: str | None
    """What was live."""
    before: str | None = None
    """What had been live before that."""
