"""How the rate goes over the time of a run, as it is written on the command line.

=================== ============================================================================
``constant``        the same rate throughout
``ramp:10..200``    evenly from 10 to 200 requests a second
``spike:10x``       the middle fifth of the time at ten times the rate
``steps:50,100``    each of these rates for the whole duration, measured apart
``soak``            constant; the memory of the observed processes is judged too
=================== ============================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from benchmarks.loadtest.arrivals import Segment

_FORMS = "constant, soak, ramp:LOW..HIGH, spike:FACTORx or steps:RATE,RATE,…"
_NUMBER = r"(\d+(?:\.\d+)?)"
_SPIKE_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A parsed profile."""

    kind: Literal["constant", "soak", "ramp", "spike", "steps"]
    numbers: tuple[float, ...] = ()
    text: str

    def curve(self, rate_per_s: float, duration_s: float) -> list[Segment]:
        """Give the rate over time; ``rate_per_s`` means nothing to a ramp."""
        if self.kind == "ramp":
            low, high = self.numbers
            return [Segment(duration_s=duration_s, begin_per_s=low, end_per_s=high)]
        if self.kind == "spike":
            high = rate_per_s * self.numbers[0]
            quiet_s, spike_s = duration_s * (1 - _SPIKE_SHARE) / 2, duration_s * _SPIKE_SHARE
            return [
                Segment(duration_s=length_s, begin_per_s=rate, end_per_s=rate)
                for length_s, rate in (
                    (quiet_s, rate_per_s), (spike_s, high), (quiet_s, rate_per_s),
                )
            ]  # fmt: skip
        return [Segment(duration_s=duration_s, begin_per_s=rate_per_s, end_per_s=rate_per_s)]

    def rates(self, rate_per_s: float) -> tuple[float, ...]:
        """Give the rates to measure one after the other."""
        return self.numbers if self.kind == "steps" else (rate_per_s,)


def parse_profile(text: str) -> Profile:
    """Read a profile. Raises ValueError saying what was wanted."""
    if text in ("constant", "soak"):
        return Profile(kind="constant" if text == "constant" else "soak", text=text)
    if (found := re.fullmatch(rf"ramp:{_NUMBER}\.\.{_NUMBER}", text)) is not None:
        low, high = float(found[1]), float(found[2])
        if low + high > 0:
            return Profile(kind="ramp", numbers=(low, high), text=text)
    if (found := re.fullmatch(rf"spike:{_NUMBER}x", text)) is not None and float(found[1]) > 0:
        return Profile(kind="spike", numbers=(float(found[1]),), text=text)
    if re.fullmatch(rf"steps:{_NUMBER}(,{_NUMBER})*", text):
        rates = tuple(float(part) for part in text.removeprefix("steps:").split(","))
        if min(rates) > 0:
            return Profile(kind="steps", numbers=rates, text=text)
    raise ValueError(f"wanted {_FORMS} with rates above 0, found {text!r}")
