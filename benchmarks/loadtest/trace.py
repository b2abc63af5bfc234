"""Arrivals as they were recorded: a file with a line for each request.

``SECONDS`` or ``SECONDS,USER``: when it came, from any beginning, not falling; and who asked. Lines
that are empty or begin with ``#`` are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.loadtest.arrivals import Floats
from recsys.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Recorded arrivals."""

    due_s: Floats
    """From the first one, rising."""
    users: tuple[str, ...] | None
    """Who asked each time; ``None`` where the file does not say."""

    @property
    def duration_s(self) -> float:
        """From the first to the last; at least a millisecond."""
        return max(float(self.due_s[-1]), 1e-3)

    @property
    def rate_per_s(self) -> float:
        """Mean rate."""
        return len(self.due_s) / self.duration_s

    def at_rate(self, rate_per_s: float) -> Trace:
        """Give the same arrivals quicker or slower, so that this is their mean rate."""
        return Trace(due_s=self.due_s * (self.rate_per_s / rate_per_s), users=self.users)


def read_trace(path: Path) -> Trace:
    """Read a trace. Raises InputError naming the line that is wrong."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"wanted a trace in {path}, found: {error}") from error
    due_s: list[float] = []
    users: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        moment, comma, user = line.partition(",")
        try:
            at_s = float(moment)
        except ValueError:
            at_s = float("nan")
        if not np.isfinite(at_s) or (comma and not user.strip()):
            raise InputError(f"{path}:{number}: wanted SECONDS or SECONDS,USER, found {line!r}")
        if due_s and at_s < due_s[-1]:
            raise InputError(
                f"{path}:{number}: wanted times that do not fall, found {at_s:g} after "
                f"{due_s[-1]:g}; sort the file"
            )
        due_s.append(at_s)
        users.append(user.strip())
    if not due_s:
        raise InputError(f"wanted a line for each request in {path}, found none")
    if any(users) and not all(users):
        raise InputError(f"{path}: wanted a user in every line or in none, found both")
    return Trace(due_s=np.array(due_s) - due_s[0], users=tuple(users) if users[0] else None)
