"""What is to be seen in the terminal while tracers are under way, and the table at the end."""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmarks.loadtest.probe.background import Background
from benchmarks.loadtest.probe.prober import Prober
from benchmarks.loadtest.probe.result import PATHS, Path, ProbeResult, summarise
from benchmarks.loadtest.probe.wording import notes_on, shown_ms, spelt

_SHOWN = ("p50", "p90", "p99", "max")


class Progress:
    """Shows a run on standard error; use as a context. Draws only in a terminal."""

    def __init__(self, console: Console, prober: Prober, background: Background | None) -> None:
        self._prober, self._background = prober, background
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self.is_shown = console.is_terminal

    def __enter__(self) -> Self:
        if self.is_shown:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def draw(self, elapsed_s: float) -> None:
        """Draw what is known by now."""
        prober = self._prober
        said = f"{elapsed_s:.0f} s, {prober.num_begun} of {prober.num_due} tracers"
        if self._background is not None:
            load = self._background.so_far
            said += f"; load: {load.num_due:,} sent, {load.num_bad:,} errors, {load.num_open} wait"
        table = paths_table(summarise(prober.observations), waiting=prober.watching)
        self._live.update(Group(table, Text(said)), refresh=True)


def paths_table(paths: dict[str, Path], waiting: dict[str, int] | None = None) -> Table:
    """Give a row for each path; ``waiting`` says how many are looked for at the moment."""
    table = Table(box=None, pad_edge=False)
    table.add_column("path", style="bold", no_wrap=True)
    table.add_column("milliseconds")
    heads = ["seen", "lost", *(["waiting"] if waiting is not None else []), *_SHOWN, "to within"]
    for head in heads:
        table.add_column(head, justify="right", style="bold" if head == "p99" else "")
    for name, path in paths.items():
        lost = path.lost + path.refused
        cells = [str(path.seen), f"[red]{lost}[/red]" if lost else "0"]
        if waiting is not None:
            cells.append(str(waiting.get(name, 0)))
        cells += [spelt(path, figure) for figure in _SHOWN]
        cells.append(shown_ms(path.width_ms.get("p50")))
        table.add_row(name, PATHS[name], *cells)
    return table


def say(console: Console, result: ProbeResult) -> None:
    """Print what was found."""
    console.print(paths_table(result.paths))
    for note in notes_on(result):
        console.print(f"[yellow]{note}[/yellow]", soft_wrap=True, highlight=False)
    if result.objective:
        verdict = "[red]missed[/red]" if result.missed else "[green]held[/green]"
        said = "; ".join(result.missed)
        console.print(f"{result.objective}: {verdict} {said}", soft_wrap=True, highlight=False)
