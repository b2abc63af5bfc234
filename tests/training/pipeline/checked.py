"""What a verification found, row by row: told as it goes, and as a table in the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Checks:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[dict[str, Any]] = []
        self._part = ""
        self.figures: dict[str, Any] = {}

    def begin(self, part: str) -> None:
        self._part = part

    def add(self, what: str, found: object = "", *, ok: bool = True) -> None:
        self._rows.append({"part": self._part, "what": what, "found": str(found), "ok": bool(ok)})
        mark = "[green]ok[/green]" if ok else "[red]NO[/red]"
        self._console.print(f"  {mark} {what} [dim]{escape(str(found))}[/dim]")

    def say(self, text: str) -> None:
        self._console.print(f"  [dim]{escape(text)}[/dim]")

    @property
    def passed(self) -> bool:
        return bool(self._rows) and all(row["ok"] for row in self._rows)

    def as_json(self) -> dict[str, Any]:
        return {"checks": self._rows, "figures": self.figures}

    def table(self) -> Table:
        table = Table(title="what was checked", title_justify="left")
        for name in ("", "part", "check", "found"):
            table.add_column(name)
        for row in self._rows:
            mark = "[green]ok[/green]" if row["ok"] else "[bold red]NO[/bold red]"
            table.add_row(mark, row["part"], row["what"], escape(row["found"]))
        return table
