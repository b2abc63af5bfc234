"""Charts as inline SVG: no script, no network, no font but the reader's, readable in either theme.

Colours and shapes come from ``report.css`` by class. Two series differ in shape as well as in
colour, so that nobody has to tell colours apart; the colours are of Okabe & Ito 2008, "Color
universal design".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from recsys.evaluation.report_document import Bin, CurvePoint, Figure

_ROW, _LEFT, _RIGHT, _AXIS = 26, 8, 16, 38
_LABEL_WIDTH = 7.2
"""Width of a character of a label, pixels: for the margin only."""


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Give round numbers from ``low`` to ``high``, at most ``most``.

    >>> ticks(0.0, 0.37)
    [0.0, 0.1, 0.2, 0.3]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(most - 1, 1)
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(s * scale for s in (1, 2, 2.5, 5, 10) if s * scale >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Give an axis label.

    >>> [number(v) for v in (0.0, 0.25, -0.05, 1500.0)]
    ['0', '0.25', '−0.05', '1,500']
    """
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def interval_chart(
    rows: Sequence[tuple[str, Sequence[Figure | None]]],
    *,
    axis: str,
    series: Sequence[str],
    zero_line: bool = False,
    width: int = 560,
) -> str:
    """Draw a dot with its interval for each row and series, one row below the other.

    ``None`` leaves a place empty. With ``zero_line`` the axis holds 0 in its middle ground and a
    line there: for differences. Without, it begins at 0.
    """
    shown = [f for _, figures in rows for f in figures if f is not None]
    if not shown:
        return '<p class="none">nothing to draw: no group has users enough</p>'
    low = min(0.0, *(f.low for f in shown)) if zero_line or min(f.low for f in shown) < 0 else 0.0
    high = max(0.0, *(f.high for f in shown))
    pad = 0.04 * (high - low or 1.0)
    low, high = (low - pad if low < 0 else low), high + pad
    label = min(max(len(name) for name, _ in rows), 26) * _LABEL_WIDTH + _LEFT + 8
    height = len(rows) * _ROW + _AXIS + 4

    def x(value: float) -> float:
        return label + (value - low) / (high - low) * (width - label - _RIGHT)

    marks = ticks(low, high, most=5)
    bottom = len(rows) * _ROW + 4
    parts = [_open(width, height, f"{axis}: {len(rows)} rows with 95 % intervals")]
    for tick in marks:
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{bottom}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 15}" text-anchor="middle">'
            f"{number(tick)}</text>"
        )
    if zero_line:
        parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="2" y2="{bottom}"/>')
    parts.append(
        f'<text class="axis" x="{(label + width - _RIGHT) / 2:.1f}" y="{bottom + 31}" '
        f'text-anchor="middle">{escape(axis)}</text>'
    )
    for n, (name, figures) in enumerate(rows):
        middle = 4 + n * _ROW + _ROW / 2
        short = name if len(name) <= 26 else name[:25] + "…"
        parts.append(
            f'<text class="label" x="{label - 8:.1f}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{escape(short)}<title>{escape(name)}</title></text>"
        )
        there = [(s, f) for s, f in enumerate(figures) if f is not None]
        if not there:
            parts.append(
                f'<text class="tick" x="{label + 4:.1f}" y="{middle + 4:.1f}">too few users</text>'
            )
        for s, figure in there:
            y = middle + (s - (len(series) - 1) / 2) * 9
            said = f"{name}, {series[s]}: {figure.mean:.4f} ({figure.low:.4f} to {figure.high:.4f})"
            parts.append(
                f'<g class="s{s}"><title>{escape(said)}</title>'
                f'<line class="whisker" x1="{x(figure.low):.1f}" x2="{x(figure.high):.1f}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>{_mark(s, x(figure.mean), y)}</g>'
            )
    return "".join(parts) + "</svg>"


def reliability_chart(bins: Sequence[Bin], *, width: int = 330) -> str:
    """Draw observed against predicted rate, both on a square-root scale, with the diagonal."""
    if not bins:
        return '<p class="none">no rows</p>'
    top = max(max(b.predicted, b.observed + 2 * b.deviation) for b in bins)
    top = min(max(top * 1.05, 1e-4), 1.0)
    left, bottom, size = 56, 44, width - 56 - 14

    def place(value: float) -> float:
        return math.sqrt(min(max(value, 0.0), top) / top) * size

    height = size + bottom + 10
    parts = [_open(width, height, "observed rate by predicted probability")]
    marks = [top * f for f in (0.0, 0.04, 0.25, 0.5625, 1.0)]
    for tick in (_round(m) for m in marks):
        at, low = left + place(tick), 10 + size - place(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="10" y2="{10 + size}"/>')
        parts.append(
            f'<line class="grid" x1="{left}" x2="{left + size}" y1="{low:.1f}" y2="{low:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{size + 25}" text-anchor="middle">{_rate(tick)}'
            f'</text><text class="tick" x="{left - 5}" y="{low + 4:.1f}" text-anchor="end">'
            f"{_rate(tick)}</text>"
        )
    parts.append(
        f'<line class="even" x1="{left}" y1="{10 + size}" x2="{left + size}" y2="10"/>'
        f'<text class="axis" x="{left + size / 2:.1f}" y="{height - 3:.1f}" text-anchor="middle">'
        "predicted probability</text>"
        f'<text class="axis" transform="translate(12 {10 + size / 2:.1f}) rotate(-90)" '
        'text-anchor="middle">observed rate</text><g class="s0">'
    )
    for b in bins:
        at, y = left + place(b.predicted), 10 + size - place(b.observed)
        low = 10 + size - place(b.observed - 2 * b.deviation)
        high = 10 + size - place(b.observed + 2 * b.deviation)
        said = f"predicted {b.predicted:.4f}, observed {b.observed:.4f}, {b.num_rows:,} rows"
        parts.append(
            f'<g><title>{said}</title><line class="whisker" x1="{at:.1f}" x2="{at:.1f}" '
            f'y1="{low:.1f}" y2="{high:.1f}"/>{_mark(0, at, y)}</g>'
        )
    return "".join(parts) + "</g></svg>"


def curve_chart(points: Sequence[CurvePoint], *, width: int = 330) -> str:
    """Draw the training loss of one phase by epoch."""
    left, size, bottom = 56, 130, 40
    losses = [p.loss for p in points]
    low, high = min(losses), max(losses)
    pad = 0.08 * (high - low or abs(high) or 1.0)
    low, high = low - pad, high + pad
    last = max(len(points) - 1, 1)

    def x(epoch: int) -> float:
        return left + epoch / last * (width - left - 18)

    def y(loss: float) -> float:
        return 8 + (high - loss) / (high - low) * size

    phase = escape(points[0].phase)
    parts = [_open(width, size + bottom + 8, f"training loss of {phase} by epoch")]
    parts += [
        f'<line class="grid" x1="{left}" x2="{width - 14}" y1="{y(tick):.1f}" '
        f'y2="{y(tick):.1f}"/><text class="tick" x="{left - 5}" y="{y(tick) + 4:.1f}" '
        f'text-anchor="end">{number(tick)}</text>'
        for tick in ticks(low, high, most=4)
    ]
    every = max(1, math.ceil(len(points) / 8))
    parts += [
        f'<text class="tick" x="{x(n):.1f}" y="{size + 23}" text-anchor="middle">{n + 1}</text>'
        for n in range(0, len(points), every)
    ]
    path = " ".join(f"{x(n):.1f},{y(p.loss):.1f}" for n, p in enumerate(points))
    parts.append(
        f'<text class="axis" x="{(left + width - 14) / 2:.1f}" y="{size + 42}" '
        f'text-anchor="middle">epoch</text>'
        f'<text class="axis" transform="translate(12 {8 + size / 2:.1f}) rotate(-90)" '
        'text-anchor="middle">mean loss</text>'
        f'<g class="s0"><polyline class="path" points="{path}"/>'
    )
    parts += [
        f"<g><title>epoch {n + 1}: {p.loss:.4f}</title>{_mark(0, x(n), y(p.loss))}</g>"
        for n, p in enumerate(points)
    ]
    return "".join(parts) + "</g></svg>"


def bar_chart(
    rows: Sequence[tuple[str, Sequence[float | None]]], *, axis: str, series: Sequence[str],
    width: int = 560,
) -> str:  # fmt: skip
    """Draw shares as bars, the series of a row below each other."""
    top = max((v for _, values in rows for v in values if v is not None), default=0.0)
    if top <= 0:
        return '<p class="none">nothing was shown</p>'
    label = min(max(len(name) for name, _ in rows), 26) * _LABEL_WIDTH + _LEFT + 8
    row = 12 * len(series) + 8
    bottom = len(rows) * row + 4
    high = top * 1.02

    def x(value: float) -> float:
        return label + value / high * (width - label - _RIGHT)

    parts = [_open(width, bottom + _AXIS, f"{axis} by group")]
    parts += [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{bottom}"/>'
        f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 15}" text-anchor="middle">'
        f"{number(100 * tick)} %</text>"
        for tick in ticks(0.0, high)
    ]
    parts.append(
        f'<text class="axis" x="{(label + width - _RIGHT) / 2:.1f}" y="{bottom + 31}" '
        f'text-anchor="middle">{escape(axis)}</text>'
    )
    for n, (name, values) in enumerate(rows):
        begin = 4 + n * row + 4
        short = name if len(name) <= 26 else name[:25] + "…"
        parts.append(
            f'<text class="label" x="{label - 8:.1f}" y="{begin + (row - 8) / 2 + 4:.1f}" '
            f'text-anchor="end">{escape(short)}<title>{escape(name)}</title></text>'
        )
        for s, value in enumerate(values):
            if value is None:
                continue
            parts.append(
                f'<rect class="bar s{s}" x="{label:.1f}" y="{begin + 12 * s}" '
                f'width="{max(x(value) - label, 0.5):.1f}" height="10">'
                f"<title>{escape(f'{name}, {series[s]}: {100 * value:.1f} %')}</title></rect>"
            )
    return "".join(parts) + "</svg>"


def legend(series: Sequence[str], *, bars: bool = False) -> str:
    """Name the series, each beside its mark."""
    items = []
    for s, name in enumerate(series):
        mark = (
            f'<rect class="bar s{s}" x="1" y="3" width="14" height="10"/>'
            if bars
            else f'<g class="s{s}">{_mark(s, 8, 8)}</g>'
        )
        items.append(
            f'<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true">{mark}</svg>'
            f"{escape(name)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _open(width: float, height: float, what: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'style="max-width:{width:g}px" aria-label="{escape(what)}">'
    )


def _mark(series: int, x: float, y: float) -> str:
    if series == 0:
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    return f'<rect class="dot" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>'


def _round(value: float) -> float:
    return float(f"{value:.2g}")


def _rate(value: float) -> str:
    return number(value)
