"""A histogram as inline SVG and HTML: no script, no network, readable on any width.

The bars are stretched to the width of the page; the words below them are HTML, which is not.
"""

from __future__ import annotations

from html import escape

import numpy as np

from recsys.features.quality.moments import age, spelt
from recsys.features.quality.statistics import Histogram, Plot, Unit

_HEIGHT = 100.0
_LEAST = 1.5
"""Height of a bar that counts anything: one in a million must not look like none."""
_MAX_TICKS = 5


def number(value: float, unit: Unit = "number") -> str:
    """Give a number for a reader; empty for NaN.

    >>> [number(v) for v in (0.0, 12345.678, 0.5, 1e-7, 3.0)]
    ['0', '12,346', '0.5', '1e-07', '3']
    """
    if np.isnan(value):
        return ""
    if unit == "time":
        return spelt(round(value)).replace("T", " ").removesuffix("Z")
    if unit == "age":
        return age(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def figure(plot: Plot, source_names: list[str]) -> str:
    """Give the histogram of a plot; a sentence where there is nothing to draw."""
    bars = plot.histogram
    if bars is None:
        return '<p class="none">no values</p>'
    totals = np.maximum(bars.counts.sum(axis=1, keepdims=True), 1)
    shares = bars.counts / totals
    tallest = float(shares.max()) or 1.0
    width = bars.counts.shape[1]
    parts = [
        f'<svg viewBox="0 0 {width} {_HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="histogram of {escape(plot.of)}">'
    ]
    names = [name_of(bars, b, plot.unit) for b in range(width)]
    for b in range(width):
        height = _height(float(shares[0, b]), tallest)
        parts.append(
            f'<rect class="s0" x="{b + 0.06:g}" y="{_HEIGHT - height:.2f}" width="0.88" '
            f'height="{height:.2f}"/>'
        )
    for s in range(1, len(shares)):
        heights = [_height(float(share), tallest) for share in shares[s]]
        path = f"M0 {_HEIGHT:g}" + "".join(
            f"V{_HEIGHT - h:.2f}H{b + 1}" for b, h in enumerate(heights)
        )
        parts.append(f'<path class="s{s}" d="{path}V{_HEIGHT:g}"/>')
    for b in range(width):  # over all, as high as the plot, to be found with a pointer
        counted = "; ".join(
            f"{source + ': ' if len(source_names) > 1 else ''}{bars.counts[s, b]:,} "
            f"({shares[s, b]:.1%})"
            for s, source in enumerate(source_names)
        )
        title = escape(f"{names[b]}: {counted}")
        parts.append(
            f'<rect class="over" x="{b}" y="0" width="1" height="{_HEIGHT:g}">'
            f"<title>{title}</title></rect>"
        )
    return "".join(parts) + "</svg>" + _axis(bars, plot.unit)


def name_of(bars: Histogram, b: int, unit: Unit) -> str:
    """Say what a bar holds."""
    if bars.by_value:
        return number(float(bars.edges[b]), unit)
    return f"{number(float(bars.edges[b]), unit)} to {number(float(bars.edges[b + 1]), unit)}"


def _rounded(value: float, unit: Unit) -> str:
    """Give the label of a tick, which marks a place and need not be exact."""
    if unit == "time":
        return number(value, unit).partition(" ")[0]
    return number(float(f"{value:.2g}") if abs(value) < 1000 else value, unit)


def _height(share: float, tallest: float) -> float:
    return max(share / tallest * _HEIGHT, _LEAST) if share else 0.0


def _axis(bars: Histogram, unit: Unit) -> str:
    width = bars.counts.shape[1]
    num = min(_MAX_TICKS if unit != "time" else 2, len(bars.edges))
    ticks = np.unique(np.linspace(0, len(bars.edges) - 1, num).round().astype(int)).tolist()
    shift = 0.5 if bars.by_value else 0.0
    spans = []
    for tick in ticks:
        at = (tick + shift) / width * 100
        side = "start" if at < 8 else "end" if at > 92 else "middle"
        value = float(bars.edges[tick])
        text = escape(number(value, unit) if bars.by_value else _rounded(value, unit))
        place = f"right:{100 - at:.2f}%" if side == "end" else f"left:{at:.2f}%"
        spans.append(f'<span class="{side}" style="{place}">{text}</span>')
    return f'<div class="axis">{"".join(spans)}</div>'
