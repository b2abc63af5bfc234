"""The study as one HTML page: a curve for each axis, its exponent, and what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.loadtest.line_chart import STYLE, Line, line_chart
from benchmarks.loadtest.line_chart import Axis as ChartAxis
from benchmarks.loadtest.page_parts import head_section, table
from benchmarks.suite.record import Record
from recsys.evaluation.html_page import html_page

_MOST_LINES = 4
_CURVE_POINTS = 40


def page(record: Record) -> str:
    """Give the page."""
    result = record.result
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for axis in result["axes"]:
        if axis["points"]:
            groups.setdefault((axis["x"], axis["y"]), []).append(axis)
    charts = "".join(_section(x, y, axes) for (x, y), axes in groups.items())
    parts = [_head(record), _held_out(result), charts]
    return html_page("How cost grows", "\n".join(parts), style=STYLE)


def _head(record: Record) -> str:
    result, spread = record.result, record.result["reference_ms"]["kernels"]
    facts = [
        ("machine", record.machine["name"]), ("commit", record.commit), ("date", record.date),
        ("points", result["points"]), ("seed", record.seed),
        ("reference work", f"{spread['least']} to {spread['greatest']} ms"),
    ]  # fmt: skip
    notes = [
        "Times are CPU times of one core. A fixed piece of work was timed beside every point: how "
        "far its times lie apart says how steady the machine was.",
        "A law is fixed + factor * x ^ exponent; the interval is 95 % of a bootstrap over repeats.",
    ]
    return head_section("How cost grows", _headline(result), facts, notes)


def _headline(result: dict[str, Any]) -> str:
    worst = abs(result["worst_error"])
    said = "within" if worst <= result["bar"] else "NOT within"
    return (
        f"CPU of a request of configurations that no law has seen was predicted {said} "
        f"{100 * result['bar']:.0f} %: the worst is {100 * worst:.0f} % off."
    )


def _held_out(result: dict[str, Any]) -> str:
    parts = list(result["held_out"][0]["measured_ms"])
    heads = ["held out", "part", "measured, CPU ms a request", "predicted", "off by"]
    rows = []
    for row in result["held_out"]:
        name = (
            f"{row['items']:,} items, {row['search']}, {row['candidates']} candidates, "
            f"{row['rate']:g} a second"
        )
        rows += [
            [
                name, part, f"{row['measured_ms'][part]:.2f}", f"{row['predicted_ms'][part]:.2f}",
                f"{100 * row['error'][part]:+.0f} %" if part in row["error"] else "",
            ]
            for part in parts
        ]  # fmt: skip
        if "memory_mib" in row:
            rows.append(
                [
                    name, "model server, MiB", f"{row['memory_mib']:,.0f}",
                    f"{row['memory_mib_predicted']:,.0f}", f"{100 * row['memory_error']:+.0f} %",
                ]
            )  # fmt: skip
    return (
        "<section><h2>Predicted, then compared</h2>"
        f'<div class="card">{table(heads, rows, words=2)}</div></section>'
    )


def _section(x: str, y: str, axes: Sequence[dict[str, Any]]) -> str:
    charts = "".join(
        f"<div>{_chart(x, y, axes[at : at + _MOST_LINES // 2])}</div>"
        for at in range(0, len(axes), _MOST_LINES // 2)
    )
    rows = [_law_row(axis) for axis in axes if axis["law"]]
    heads = ["curve", "fixed", "exponent", "95 %", "median distance of points"]
    laws = table(heads, rows) if rows else ""
    return (
        f'<section><h2>{y} by {x}</h2><div class="card"><div class="pair">{charts}</div>{laws}'
        "</div></section>"
    )


def _chart(x: str, y: str, axes: Sequence[dict[str, Any]]) -> str:
    """Draw the points of a few curves, and their laws through them."""
    lines = []
    for axis in axes:
        at, median = [row[0] for row in axis["points"]], [row[1] for row in axis["points"]]
        name = axis["name"].removesuffix(f" by {x}")
        law = axis["law"]
        lines.append(Line(name=name, x=at, y=median, marks="only" if law else "few"))
        if law:
            grid = np.geomspace(min(at), max(at), _CURVE_POINTS)
            curve = law["fixed"] + law["factor"] * grid ** law["exponent"]
            lines.append(
                Line(name=_law_name(law), x=grid.tolist(), y=curve.tolist(), marks="none")
            )  # fmt: skip
    sizes = sorted({row[0] for axis in axes for row in axis["points"]})
    across = ChartAxis(title=x, is_log=True, marks=[(size, _short(size)) for size in sizes])
    return line_chart(lines, x=across, y=ChartAxis(title=y, is_log=True))


def _short(size: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def _law_name(law: dict[str, Any]) -> str:
    return f"its law, exponent {law['exponent']:.2f}" if law["factor"] else "its law, a constant"


def _law_row(axis: dict[str, Any]) -> list[str]:
    law = axis["law"]
    low, high = law["exponent_low"], law["exponent_high"]
    interval = "" if low is None else f"{low:.2f} … {high:.2f}"
    return [
        axis["name"], f"{law['fixed']:.3g}",
        f"{law['exponent']:.2f}" if law["factor"] else "none: constant", interval,
        f"{100 * law['error']:.1f} %",
    ]  # fmt: skip
