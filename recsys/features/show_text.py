"""The views of one user or item as a person reads them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.features import names
from recsys.features.quality.moments import age, spelt
from recsys.features.view_record import Status

_FEW = 8
"""Elements of a list that are shown without ``--full``: the most recent."""
_EPOCH_MS = 10**11
"""1973 as epoch ms: a feature named ``…_ms`` of a greater value is a time."""


class Shown(NamedTuple):
    """One view of the entity; ``name`` ends in ``/category`` for user x category."""

    name: str
    status: Status
    age_ms: int | None
    values: dict[str, Any]
    recomputed: dict[str, Any]
    """What the event log gives where it differs; empty without ``--at``."""
    told: Mapping[str, int] = MappingProxyType({})
    """Log positions of its state: ``topic[partition]`` to the last offset it was told."""
    made_of: Mapping[str, dict[str, Any]] = MappingProxyType({})
    """By feature, the events its value is made of: ``show_events.made_of``."""


def as_json(view: Shown) -> dict[str, Any]:
    """Give what JSON can hold."""
    return view._asdict() | {"told": dict(view.told), "made_of": dict(view.made_of)}


def print_all(
    shown: Sequence[Shown], events: Sequence[dict[str, Any]], moment_ms: int, *, full: bool
) -> None:
    """Print the views, then the newest events."""
    console = Console()
    for view in shown:
        old = "" if view.age_ms is None else f", newest event {age(view.age_ms)} ago"
        console.print(f"[bold]{view.name}[/]: {view.status.value.upper()}{old}", highlight=False)
        if view.told:
            told = ", ".join(f"{at} {offset}" for at, offset in view.told.items())
            console.print(f"  told up to {told}", style="dim", markup=False, highlight=False)
        is_history = view.name == names.USER_HISTORY and view.status is Status.PRESENT
        if is_history and not view.recomputed:
            console.print(_history(view.values, moment_ms, full=full))
        elif view.values or view.recomputed:
            console.print(_values(view, moment_ms, full=full))
        console.print()
    console.print(_events(events, moment_ms))


def number(value: float) -> str:
    """Give a number without needless zeros.

    >>> [number(v) for v in (392.0, 15.399551391601562, 69454.953125, 0.0)]
    ['392', '15.3996', '69,454.9531', '0']
    """
    text = f"{value:,.4f}"
    return text.rstrip("0").rstrip(".")


def _values(view: Shown, moment_ms: int, *, full: bool) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column("  feature", style="")
    table.add_column("value", justify="right" if view.made_of or _all_numbers(view) else "left")
    if view.made_of:
        table.add_column("events", justify="right")
        table.add_column("newest", justify="right")
        table.add_column("which is")
    if view.recomputed:
        table.add_column("the event log says", style="bold red")
    for name in view.values | view.recomputed:
        cells = [f"  {name}", _spelt(name, view.values.get(name), full=full)]
        if view.made_of:
            made = view.made_of.get(name)
            cells += ["", "", ""] if made is None else [
                f"{made['num_events']:,}", f"{age(moment_ms - made['newest_ms'])} ago",
                _place(made),
            ]  # fmt: skip
        if view.recomputed:
            again = view.recomputed.get(name)
            cells.append("" if name not in view.recomputed else _spelt(name, again, full=full))
        table.add_row(*map(Text, cells))
    return table


def _history(values: dict[str, Any], moment_ms: int, *, full: bool) -> Table:
    """Give the recent items, most recent first."""
    rows = list(zip(values["item_ids"], values["counts"], values["last_ms"], strict=True))[::-1]
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column("  item")
    table.add_column("times", justify="right")
    table.add_column("last", justify="right")
    for item, count, last_ms in rows if full else rows[:_FEW]:
        table.add_row(Text(f"  {item}"), f"{count:,}", f"{age(moment_ms - last_ms)} ago")
    if len(rows) > _FEW and not full:
        table.add_row(f"  … {len(rows) - _FEW} more (--full)")
    return table


def _events(events: Sequence[dict[str, Any]], moment_ms: int) -> Table:
    table = Table(title="newest events of the event log", title_justify="left", box=None,
                  padding=(0, 3, 0, 0), pad_edge=False)  # fmt: skip
    for name in ("effective time", "ago", "kind", "type", "item", "value", "windows", "in the log"):
        right = name in ("ago", "value", "windows")
        table.add_column(name, justify="right" if right else "left")
    for e in events:
        item = e["item_id"] or (f"{e['num_items']} items" if e["num_items"] else "")
        table.add_row(
            spelt(e["effective_time_ms"]), age(moment_ms - e["effective_time_ms"]), e["kind"],
            Text(e["type"] or ""), Text(item), "" if e["value"] is None else number(e["value"]),
            str(e["in_windows"]), Text(_place(e)),
        )  # fmt: skip
    return table


def _place(event: dict[str, Any]) -> str:
    return f"{event['topic']}[{event['partition']}] {event['offset']}"


def _all_numbers(view: Shown) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in view.values.values())


def _spelt(name: str, value: Any, *, full: bool) -> str:
    if isinstance(value, list):
        shown = value if full else value[-_FEW:]
        text = ", ".join(_spelt(name, v, full=full) for v in shown)
        more = len(value) - len(shown)
        return f"… {more} more (--full), {text}" if more else text or "(none)"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "null"}[value]
    if isinstance(value, int | float):
        if name.endswith("_ms") and value > _EPOCH_MS:
            return f"{int(value)} ({spelt(int(value))})"
        return number(value)
    return str(value)
