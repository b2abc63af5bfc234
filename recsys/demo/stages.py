"""Stages of the demo as a person sees them: a headline, what happens, how long it took."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from recsys.errors import RecsysError

_GOOD_BYE_S = 20.0
"""How long an interrupted command may take to stop what it started."""


@dataclass(kw_only=True)
class Stages:
    """Prints headlines and keeps the time of each stage."""

    console: Console
    environment: Mapping[str, str]
    """Environment of every command the demo runs."""
    took_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, about: str) -> Iterator[None]:
        """Run the body as one named, timed stage."""
        self.console.print(Rule(f"[bold]{len(self.took_s) + 1}. {name}[/bold]", align="left"))
        self.console.print(f"[dim]{about}[/dim]")
        start = time.perf_counter()
        yield
        self.took_s[name] = time.perf_counter() - start
        self.console.print(f"[green]✓[/green] {name}: {self.took_s[name]:.1f} s")

    def run(self, *command: str, capture: bool = False) -> str:
        """Run ``recsys <command>``; its progress is shown as it comes.

        Gives its standard output when ``capture``. Raises RecsysError when it fails: its own
        message is already on the screen.
        """
        with subprocess.Popen(
            [sys.executable, "-m", "recsys.cli", *command],
            env=dict(self.environment),
            stdout=subprocess.PIPE if capture else None,
            text=True,
        ) as process:
            try:
                output, _ = process.communicate()
            except BaseException:
                # It has processes of its own (Ray's): let it put them away before it is killed.
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GOOD_BYE_S)
                process.kill()
                raise
        if process.returncode != 0:
            raise RecsysError(
                f"`recsys {' '.join(command)}` ended with code {process.returncode}; "
                "its message stands above; `recsys logs` shows those of the servers"
            )
        return output or ""

    def summary(self, extra: Sequence[tuple[str, str]]) -> None:
        """Print how long each stage took, then ``extra`` rows."""
        table = Table(title="where the time went", show_header=False)
        for name, took_s in self.took_s.items():
            table.add_row(name, f"{took_s:.1f} s")
        table.add_section()
        for name, value in extra:
            table.add_row(name, value)
        self.console.print(table)
