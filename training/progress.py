"""What a run is doing, on standard error: bars on a terminal, a line per stage in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


class Progress:
    """Shows stages with their time, and bars inside them. ``quiet`` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.seconds: dict[str, float] = {}
        """Time by stage, in order."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and say when it is done."""
        begin = time.perf_counter()
        yield
        took = time.perf_counter() - begin
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.console.print(f"  {name} [dim]{took:.1f} s[/dim]")

    def track(self, steps: Sequence[Item], what: str) -> Iterator[Item]:
        """Go through ``steps`` with a bar that vanishes when it is done."""
        if not self.console.is_terminal:
            yield from steps
            return
        yield from track(steps, description=f"  {what}", console=self.console, transient=True)
