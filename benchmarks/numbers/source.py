"""Rows of ``rows.toml``: what was measured, how, and what was wanted of it.

A row either names a committed result (``result``, see ``benchmarks/results``), from which its
figures, commit, date and machine come, or says them itself, where the command takes too long or
wants too much to be a benchmark of ``make bench``.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from recsys.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ROWS = Path(__file__).with_name("rows.toml")
RESULTS = ROOT / "benchmarks" / "results"

Met = Literal["yes", "at times", "no", "not run"]
_WANTED = re.compile(r"(<=|>=|<) (\d+(?:\.\d+)?)")


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a figure was measured on."""

    name: str
    says: str
    """One line for a reader: processor, cores, memory, system."""


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a table."""

    group: str
    """Of ``groups``."""
    what: str
    """With links as of the repository's root."""
    headline: str = ""
    """What the README calls it, in few words; empty: it stands in docs/numbers.md alone."""
    command: str = ""
    """What measures it anew; empty: as the row above."""
    measured: str = ""
    """Words; with ``result``, ``{name[inner]:.1f}`` takes figures from there, as ``str.format``."""
    commit: str = ""
    date: datetime.date | None = None
    machine: str = ""
    """Name of one of ``machines``."""
    result: str = ""
    """Name of a benchmark: figures, commit, date and machine are those of its newest result."""
    at: list[str] = []
    """Where ``value`` (and its interval) is in the result: keys from the outside in."""
    wanted: str = ""
    """The bar, as ``>= 30``, ``<= 1.5`` or ``< 250``."""
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    """What ``low`` and ``high`` are: of how many runs, or of which bootstrap."""
    not_run: str = ""
    """Why there is no figure."""
    cause: str = ""
    """Of a bar that is not met, or not always: what was found, with links as of ``docs/``."""


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    groups: dict[str, str]
    """The line above each table, in the order of the tables."""
    machines: list[Machine]
    rows: list[Row]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A row with all that its result says filled in."""

    row: Row
    measured: str
    commit: str
    date: str
    machine: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def met(self) -> Met | None:
        """Whether what was wanted was found; ``at times``: the interval lies on both sides."""
        if not self.row.wanted:
            return None
        ends = [end for end in (self.value, self.low, self.high) if end is not None]
        if not ends:
            return "not run"
        held = [_holds(self.row.wanted, end) for end in ends]
        return "yes" if all(held) else "at times" if any(held) else "no"


def read_source(path: Path = ROWS) -> Source:
    """Read the rows. Raises InputError when the file is not of the form that is told above."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Source)
    except (msgspec.DecodeError, OSError) as error:
        raise InputError(f"{path.name}: {error}; its head says how a row is written") from error


def read_figures(path: Path = ROWS, results: Path = RESULTS) -> list[Figure]:
    """Give all rows with their figures. Raises InputError, naming the row, where one lacks some."""
    source = read_source(path)
    return [_figure(row, source, results) for row in source.rows]


def newest_result(benchmark: str, results: Path = RESULTS) -> dict[str, Any]:
    """Give the newest committed result of a benchmark. Raises InputError when there is none."""
    found = sorted(results.glob(f"*/{benchmark}.json"))
    if not found:
        raise InputError(
            f"wanted a result of {benchmark} in benchmarks/results, found none; run "
            f"`python -m benchmarks {benchmark}` and commit what it writes"
        )
    document: dict[str, Any] = json.loads(found[-1].read_bytes())
    return document


def _figure(row: Row, source: Source, results: Path) -> Figure:
    machines = [machine.name for machine in source.machines]
    said: dict[str, Any] = {
        "measured": row.measured, "commit": row.commit, "date": str(row.date or ""),
        "machine": row.machine, "value": row.value, "low": row.low, "high": row.high,
    }  # fmt: skip
    if row.group not in source.groups:
        raise _wrong(row, f"a group of {list(source.groups)}", row.group)
    if row.wanted and not _WANTED.fullmatch(row.wanted):
        raise _wrong(row, "a bar like `>= 30`, `<= 1.5` or `< 250`", row.wanted)
    if row.not_run:
        pass
    elif row.result:
        said |= _from_result(row, newest_result(row.result, results))
    elif row.machine not in machines or not row.commit or row.date is None:
        raise _wrong(row, f"a result, or commit, date and machine (one of {machines})", said)
    elif row.wanted and row.value is None and (row.low is None or row.high is None):
        raise _wrong(row, "a value, or low and high, to hold against the bar, or not_run", None)
    figure = Figure(row=row, **said)
    if figure.met in ("no", "at times", "not run") and not (row.cause or row.not_run):
        raise _wrong(row, "the cause why its bar is not met, as profiling found it", figure.met)
    return figure


def _from_result(row: Row, document: dict[str, Any]) -> dict[str, Any]:
    result = document["result"]
    said = {
        "commit": document["commit"], "date": document["date"],
        "machine": document["machine"]["name"],
    }  # fmt: skip
    try:
        said["measured"] = row.measured.format(**result)
        found = _at(result, row.at) if row.at else None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _wrong(row, f"figures of the result of {row.result}", repr(error)) from error
    if isinstance(found, dict):
        value = found["ratio"] if "ratio" in found else found["value"]
        said |= {"value": value, "low": found.get("low"), "high": found.get("high")}
    elif isinstance(found, list):
        said |= dict(zip(("low", "value", "high"), found, strict=True))
    elif found is not None:
        said["value"] = found
    return said


def _at(result: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        result = result[key]
    return result


def _holds(wanted: str, value: float) -> bool:
    match = _WANTED.fullmatch(wanted)
    assert match is not None
    bar = float(match[2])
    return {"<=": value <= bar, ">=": value >= bar, "<": value < bar}[match[1]]


def _wrong(row: Row, wanted: str, found: object) -> InputError:
    return InputError(f'rows.toml, row "{row.what}": wanted {wanted}, found {found!r}')
