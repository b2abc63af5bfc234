"""What is to be seen in the terminal while load is sent, and a line for each step after it."""

from __future__ import annotations

import time
from typing import Self

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.loadtest.result import LATE_MS, Step
from benchmarks.loadtest.senders import SoFar, Watch

_REDRAW_S = 0.25


class Progress:
    """Shows a run on standard error; use as a context. Draws only in a terminal."""

    def __init__(self, console: Console, *, duration_s: float, has_objective: bool) -> None:
        self._console, self._duration_s = console, duration_s
        self._held = "held" if has_objective else ""
        self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def watch(self, rate: float) -> Watch:
        """Give what draws a step while it is sent."""
        drawn = 0.0

        def draw(so_far: SoFar) -> None:
            nonlocal drawn
            now = time.monotonic()
            if not self._live.is_started or now - drawn < _REDRAW_S:
                return
            drawn = now
            self._live.update(_table(so_far, rate, self._duration_s), refresh=True)

        return draw

    def report(self, step: Step) -> None:
        """Print a step."""
        said = "; ".join(step.missed) or self._held
        latency = step.latency_ms
        figures = "  ".join(
            f"{name} {latency[name]:8.2f}" for name in ("p50", "p95", "p99", "max") if latency
        )
        self._console.print(
            f"{step.rate:9.1f}/s  {figures} ms  errors {100 * step.errors:.2f} %  {said}",
            highlight=False,
            soft_wrap=True,
        )


def _table(so_far: SoFar, rate: float, duration_s: float) -> Table:
    table = Table(box=None, pad_edge=False)
    recent = [part for part in so_far.recent_s if len(part)]
    latency = 1e3 * np.concatenate(recent) if recent else np.empty(0)
    latency = latency[~np.isnan(latency)]
    late_ms = 1e3 * so_far.lateness_s
    columns = {
        "seconds": f"{max(so_far.elapsed_s, 0):.0f} of {duration_s:.0f}",
        "rate": f"{rate:.1f}/s",
        "sent": f"{so_far.num_due:,}",
        "answered": f"{so_far.num_ended - so_far.num_bad:,}",
        "errors": f"[red]{so_far.num_bad:,}[/red]" if so_far.num_bad else "0",
        "waiting": f"{so_far.num_open:,}",
        "p50 now": f"{np.percentile(latency, 50):.1f} ms" if len(latency) else "",
        "p99 now": f"{np.percentile(latency, 99):.1f} ms" if len(latency) else "",
        "generator late": (
            f"[yellow]{late_ms:.1f} ms[/yellow]" if late_ms > LATE_MS else f"{late_ms:.1f} ms"
        ),
    }
    for name in columns:
        table.add_column(name, justify="right", style="bold" if name == "p99 now" else "")
    table.add_row(*columns.values())
    return table
