"""What a run is doing: lines of JSON on disk, and words on the terminal.

``<folder>/<run>.jsonl`` gets a line for each happening, flushed at once; a run that was killed and
resumed goes on in the same file. What ``recsys pipeline status`` shows is read from it, so there is
no second account that could differ. A last line that a kill cut short is left out when read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from recsys.clock import now_ms
from recsys.events.durable_files import make_directory

Event = dict[str, Any]
_OF_EPOCH = ("step", "phase", "epoch", "epochs", "loss")
_WORDS: dict[str, Callable[[Event], str]] = {
    "run_started": lambda e: f"[bold]run {e['run']}[/bold] {e.get('what', '')}",
    "step_reused": lambda e: f"[green]=[/green] {e['step']} [dim]as before ({e['key']})[/dim]",
    "step_started": lambda e: f"[blue]>[/blue] {e['step']} [dim]{e['key']}[/dim]",
    "step_damaged": lambda e: (
        f"[yellow]![/yellow] {e['step']} is damaged and made again: {e['error']}"
    ),
    # What went wrong is in the file; on the terminal the command says it, once and last.
    "step_failed": lambda e: f"[red]x[/red] {e['step']} failed",
    "step_retried": lambda e: (
        f"[yellow]![/yellow] {e['step']}: {e['error']}; "
        f"try {e['attempt'] + 1} in {e['pause_s']:g} s"
    ),
    "step_done": lambda e: f"[green]+[/green] {e['step']} [dim]{e['took_s']:.1f} s[/dim]",
    "epoch": lambda e: (
        f"    {e['phase']}: epoch {e['epoch']} of {e['epochs']}, loss {e['loss']:.4f}"
    ),
    "said": lambda e: f"    {e['text']}",
    "run_done": lambda e: f"[bold green]run {e['run']} done[/bold green] {e.get('what', '')}",
    "run_failed": lambda e: f"[bold red]run {e['run']} failed[/bold red]",
    "run_refused": lambda e: f"[bold red]run {e['run']} refused[/bold red]: the gate",
    "run_stopped": lambda e: (
        f"[bold]run {e['run']} stopped[/bold]: kept {e['kept']}; "
        "the same command goes on from there"
    ),
}


class Journal:
    """The account of one run."""

    def __init__(self, path: Path, *, console: Console, json_lines: bool = False) -> None:
        """Append to ``path``; with ``json_lines`` the lines go to standard output, too."""
        make_directory(path.parent)
        self.path = path
        self.run = path.stem
        self._console = console
        self._json_lines = json_lines

    def tell(self, event: str, **fields: Any) -> None:
        """Write a line and show it."""
        line = {"at_ms": now_ms(), "event": event, "run": self.run, **fields}
        text = json.dumps(line) + "\n"
        with self.path.open("rb+" if self.path.exists() else "wb") as file:
            if file.seek(0, 2) > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # cut short by a kill
                    file.write(b"\n")
            file.write(text.encode())
        if self._json_lines:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            # What is told may hold brackets, which are no markup.
            shown = {name: escape(v) if isinstance(v, str) else v for name, v in line.items()}
            self._console.print(_WORDS[event](shown))


def read_journal(path: Path) -> Iterator[Event]:
    """Give the lines of a run; those that a kill cut short or that are damaged are left out."""
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and _is_whole(event):
            yield event


def _is_whole(event: Event) -> bool:
    kind = event.get("event")
    if kind not in _WORDS or not isinstance(event.get("at_ms"), int):
        return False
    is_of_step = kind.startswith("step_")
    wanted = ("step", "key") if is_of_step else _OF_EPOCH if kind == "epoch" else ()
    return all(name in event for name in wanted)
