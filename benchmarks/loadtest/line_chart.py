"""Lines as inline SVG, in the look of the reports (``recsys/evaluation/charts.py``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from recsys.evaluation.charts import number, ticks

STYLE = """
:root { --third: #00785a; --fourth: #9a4f7d; }
@media (prefers-color-scheme: dark) { :root { --third: #3fd0a8; --fourth: #e3a1c6; } }
.l0 { --line-of: var(--first); } .l1 { --line-of: var(--second); }
.l2 { --line-of: var(--third); } .l3 { --line-of: var(--fourth); }
.line { stroke: var(--line-of); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
.l1 .line { stroke-dasharray: 7 3; } .l2 .line { stroke-dasharray: 2 3; }
.l3 .line { stroke-dasharray: 9 3 2 3; }
.point { fill: var(--line-of); stroke: var(--line-of); stroke-width: 1.6; }
.point.hollow { fill: var(--card); } .bound { stroke: var(--bad); stroke-width: 1.2; }
.chart .bound-label { fill: var(--bad); } .key-line { width: 30px !important; }
"""
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 10, 44
_MANY_POINTS = 45
"""Beyond so many, a line has no marks: they would hide it."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line; points whose value is not finite leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    hollow: frozenset[int] = frozenset()
    """Points drawn as rings."""
    marks: Literal["few", "none", "only"] = "few"
    """Points on the line, as long as they are few; the line alone; points without a line."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis says, and its marks where they are not round numbers."""

    title: str
    is_log: bool = False
    marks: Sequence[tuple[float, str]] = ()


def line_chart(
    lines: Sequence[Line],
    *,
    x: Axis,
    y: Axis,
    bound: tuple[float, str] | None = None,
    width: int = 560,
    height: int = 300,
) -> str:
    """Draw lines with their legend; ``bound`` is a level with its name, drawn where it fits."""
    xs = [a for line in lines for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
    ys = [b for line in lines for b in line.y if math.isfinite(b) and (b > 0 or not y.is_log)]
    if not xs or not ys:
        return '<p class="none">nothing to draw</p>'
    if bound is not None and bound[0] <= 20 * max(ys):
        ys.append(bound[0])
    x_scale = _Scale(min(xs), max(xs), _LEFT, width - _RIGHT, is_log=x.is_log)
    low = min(ys) * 0.9 if y.is_log else min(0.0, *ys)
    y_scale = _Scale(low, max(ys) * 1.06, height - _BOTTOM, _TOP, is_log=y.is_log)
    names = ", ".join(line.name for line in lines)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'style="max-width:{width}px" aria-label="{escape(f"{y.title} by {x.title}: {names}")}">'
    ]
    for value, text in x.marks or x_scale.marks(7):
        at = x_scale(value)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
            f'<text class="tick" x="{at:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">'
            f"{escape(text)}</text>"
        )
    for value, text in y.marks or y_scale.marks(6):
        at = y_scale(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
            f"{escape(text)}</text>"
        )
    middle = (height - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text class="axis" x="{(width + _LEFT - _RIGHT) / 2}" y="{height - 8}" '
        f'text-anchor="middle">{escape(x.title)}</text>'
        f'<text class="axis" transform="translate(13 {middle:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.title)}</text>'
    )
    if bound is not None and low <= bound[0] <= max(ys):
        at = y_scale(bound[0])
        parts.append(
            f'<line class="bound" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="bound-label" x="{_LEFT + 5}" y="{at - 4:.1f}">{escape(bound[1])}</text>'
        )
    for place, line in enumerate(lines):
        parts.append(_drawn(line, place % 4, x_scale, y_scale))
    return _legend(lines) + "".join(parts) + "</svg>"


class _Scale:
    """From a value to a place in pixels."""

    def __init__(self, low: float, high: float, begin: float, end: float, *, is_log: bool) -> None:
        if high <= low:
            low, high = (low / 1.5, low * 1.5) if is_log else (low - 0.5, low + 0.5)
        self._low, self._high, self._is_log = low, high, is_log
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        low, high = self._low, self._high
        if self._is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return self._begin + (value - low) / (high - low) * (self._end - self._begin)

    def marks(self, most: int) -> list[tuple[float, str]]:
        if not self._is_log:
            return [(tick, number(tick)) for tick in ticks(self._low, self._high, most=most)]
        first, last = math.floor(math.log10(self._low)), math.ceil(math.log10(self._high))
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**n for n in range(first, last + 1) for d in digits]
            found = [v for v in found if self._low <= v <= self._high]
            if len(found) <= most + 2:
                break
        if len(found) < 4:
            found = [tick for tick in ticks(self._low, self._high, most=most) if tick > 0]
        return [(value, number(value)) for value in found]


def _drawn(line: Line, place: int, x: _Scale, y: _Scale) -> str:
    runs: list[list[str]] = [[]]
    points = []
    for n, (a, b) in enumerate(zip(line.x, line.y, strict=True)):
        if not math.isfinite(b):
            runs.append([])
            continue
        at, level = x(a), y(b)
        runs[-1].append(f"{at:.1f},{level:.1f}")
        if line.marks == "only" or (line.marks == "few" and len(line.x) <= _MANY_POINTS):
            kind = "point hollow" if n in line.hollow else "point"
            said = escape(f"{line.name}: {number(b)} at {number(a)}")
            points.append(
                f'<circle class="{kind}" cx="{at:.1f}" cy="{level:.1f}" r="2.8">'
                f"<title>{said}</title></circle>"
            )
    drawn = [run for run in runs if run and line.marks != "only"]
    paths = "".join(f'<polyline class="line" points="{" ".join(run)}"/>' for run in drawn)
    return f'<g class="l{place}">{paths}{"".join(points)}</g>'


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<li><svg class="key key-line l{n % 4}" viewBox="0 0 30 16" aria-hidden="true"><g '
        f'class="l{n % 4}">{_key(line)}</g></svg>{escape(line.name)}</li>'
        for n, line in enumerate(lines)
    )
    return f'<ul class="legend">{items}</ul>'


def _key(line: Line) -> str:
    if line.marks == "only":
        kind = "point hollow" if line.hollow else "point"
        return f'<circle class="{kind}" cx="15" cy="8" r="2.8"/>'
    return '<line class="line" x1="1" x2="29" y1="8" y2="8"/>'
