"""``python -m benchmarks.loadtest.curve RESULT.json … > curve.svg``: rate against latency.

Takes results of ``benchmarks.loadtest.throughput`` and draws the percentiles of their steps, both
axes logarithmic. Points of refused rates are hollow.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 400, 56, 28, 150, 44
_COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad")
_DASHES = {"p50_ms": "", "p95_ms": "5,3", "p99_ms": "1.5,3"}
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw to standard output."""
    paths = sys.argv[1:] if argv is None else argv
    sys.stdout.write(curve([json.loads(Path(path).read_text()) for path in paths]))
    return 0


def curve(results: Sequence[dict[str, Any]]) -> str:
    """Give an SVG of the results' steps."""
    steps = [step for result in results for step in result["steps"] if step["sent"]]
    rates = [step["rate"] for step in steps]
    times = [step[name] for step in steps for name in _DASHES if math.isfinite(step[name])]
    x_range = min(rates) * 0.9, max(rates) * 1.1
    y_range = min(times) * 0.8, min(max(times) * 1.2, 2000.0)

    def x(rate: float) -> float:
        return _LEFT + _share(rate, *x_range) * (_WIDTH - _LEFT - _RIGHT)

    def y(ms: float) -> float:
        return _HEIGHT - _BOTTOM - _share(ms, *y_range) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="16">latency from the intended send time, ms</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">requests a second</text>',
    ]
    for tick in _TICKS:
        if x_range[0] <= tick <= x_range[1]:
            parts.append(_line(x(tick), _TOP, x(tick), _HEIGHT - _BOTTOM, "#e5e5e5"))
            parts.append(
                f'<text x="{x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}" '
                f'text-anchor="middle">{tick}</text>'
            )
        if y_range[0] <= tick <= y_range[1]:
            parts.append(_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), "#e5e5e5"))
            parts.append(
                f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>'
            )
    for number, result in enumerate(results):
        colour = _COLOURS[number % len(_COLOURS)]
        ordered = sorted((s for s in result["steps"] if s["sent"]), key=lambda s: s["rate"])
        for name, dash in _DASHES.items():
            drawn = [s for s in ordered if s[name] <= y_range[1]]
            points = " ".join(f"{x(s['rate']):.1f},{y(s[name]):.1f}" for s in drawn)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5" '
                f'stroke-dasharray="{dash}"/>'
            )
            parts += [
                f'<circle cx="{x(s["rate"]):.1f}" cy="{y(s[name]):.1f}" r="3" stroke="{colour}" '
                f'fill="{colour if s["kept"] else "white"}"/>'
                for s in drawn
            ]
        label = result["benchmark"].split()[-1]
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{_TOP + 20 * number + 12}" '
            f'fill="{colour}">{label}, {result["items"]:,} items</text>'
        )
    parts.append(
        f'<text x="{_WIDTH - _RIGHT + 12}" y="{_HEIGHT - _BOTTOM}">— p50 -- p95 ·· p99</text></svg>'
    )
    return "\n".join(parts) + "\n"


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


if __name__ == "__main__":
    sys.exit(main())
