"""``python -m benchmarks table [--write]``: the tables of README.md and docs/numbers.md.

They are made of ``benchmarks/numbers/rows.toml`` and the committed results and stand between
markers in the pages: rows with a headline in the README, all of them in the other. Without
``--write`` they are compared with what stands there: exit code 1 when they differ.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.numbers.source import ROOT, Figure, read_figures, read_source
from recsys.errors import InputError

README, PAGE = ROOT / "README.md", ROOT / "docs" / "numbers.md"
_SIGNS = {">=": "≥", "<=": "≤", "<": "<"}
BEGIN = "<!-- made by `python -m benchmarks table --write` from benchmarks/numbers/rows.toml -->"
END = "<!-- until here -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, or say whether they are as they should be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks table", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="put them into the pages")
    args = parser.parse_args(argv)
    stale = 0
    try:
        for page, made in pages().items():
            if page.read_text() == made:
                continue
            stale += 1
            if args.write:
                page.write_text(made)
            name = page.relative_to(ROOT)
            sys.stderr.write(f"{name}: {'written' if args.write else 'is not as made anew'}\n")
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 1 if stale and not args.write else 0


def pages() -> dict[Path, str]:
    """Give both pages as they should be. Raises InputError for a wrong row or missing markers."""
    figures = read_figures()
    whole = f"{tables(figures)}\n## Short of the aim, and why\n\n{short_of_aims(figures)}"
    return {
        README: between_markers(README.read_text(), headlines(figures), "README.md"),
        PAGE: between_markers(PAGE.read_text(), whole, "docs/numbers.md"),
    }


def between_markers(page: str, made: str, name: str) -> str:
    """Put ``made`` between the markers of ``page``. Raises InputError without them."""
    before, found, rest = page.partition(BEGIN + "\n")
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise InputError(f"{name}: wanted the lines {BEGIN!r} and {END!r}, found no such pair")
    return f"{before}{BEGIN}\n{made}{END}{after}"


def headlines(figures: Sequence[Figure]) -> str:
    """Give what the README tells: bars, how many are met of all there are, and the rest."""
    told = [figure for figure in figures if figure.row.headline]
    met = Counter(figure.met for figure in figures if figure.met)
    lines = ["| | wanted | measured | met |", "|---" * 4 + "|"]
    lines += [
        f"| {figure.row.headline} | {_bar(figure)} | {_value(figure)} | {figure.met} |"
        for figure in told
        if figure.met
    ]
    lines += [
        "",
        f"All {met.total()} bars that were set beforehand: {met['yes']} met, {met['at times']} met "
        f"at times, {met['no']} missed, {met['not run']} not run for want of the machine.",
        "",
        "| | measured |",
        "|---|---|",
    ]
    lines += [f"| {f.row.headline} | {f.measured} |" for f in told if not f.met]
    return "\n".join([*lines, ""])


def tables(figures: Sequence[Figure]) -> str:
    """Give a table for each group: with bars where there are any."""
    source, lines = read_source(), list[str]()
    for group, title in source.groups.items():
        of_group = [figure for figure in figures if figure.row.group == group]
        if not of_group:
            continue
        barred = any(figure.row.wanted for figure in of_group)
        lines += [f"**{title}**", ""]
        if barred:
            lines += ["| what | wanted | measured | met | command | as of |", "|---" * 6 + "|"]
        else:
            lines += ["| what | measured | command | as of |", "|---" * 4 + "|"]
        lines += [_as_of_docs(_line(figure, barred)) for figure in of_group] + [""]
    lines += ["Machines: " + " ".join(f"{m.name}: {m.says}." for m in source.machines), ""]
    return "\n".join(lines)


def short_of_aims(figures: Sequence[Figure]) -> str:
    """Give each bar that is not met, or not always, with its cause, and what was not run."""
    lines, subject = list[str](), ""
    for figure in figures:
        row = figure.row
        continued = row.what.startswith("…")
        subject = subject if continued else row.what
        if figure.met in (None, "yes"):
            continue
        title = f"{subject} {row.what}" if continued else subject
        lines += [f"**{title}**", "", f"Wanted {_bar(figure)}, found {_found(figure)}."]
        lines += [row.cause.strip(), ""] if row.cause else [""]
    return "\n".join(lines)


def _line(figure: Figure, barred: bool) -> str:
    row = figure.row
    command = f"`{row.command}`" if row.command else ""
    when = f"{figure.commit}, {figure.date}, {figure.machine}" if figure.commit else ""
    if not barred:
        return f"| {row.what} | {figure.measured} | {command} | {when} |"
    return f"| {row.what} | {_bar(figure)} | {_found(figure)} | {figure.met} | {command} | {when} |"


def _as_of_docs(line: str) -> str:
    return line.replace("](docs/", "](")


def _bar(figure: Figure) -> str:
    sign, _, number = figure.row.wanted.partition(" ")
    return f"{_SIGNS[sign]} {number} {figure.row.unit}".strip()


def _found(figure: Figure) -> str:
    value = _value(figure)
    return f"{value}; {figure.measured}" if figure.measured else value


def _value(figure: Figure) -> str:
    row = figure.row
    if figure.met == "not run":
        return f"nothing: {row.not_run}"
    between, notes = "", [row.interval] if row.interval else []
    if figure.low is not None and figure.high is not None:
        between = f"{_number(figure.low)} … {_number(figure.high)}"
    said = between if figure.value is None else _number(figure.value)
    if figure.value is not None and between:
        notes.insert(0, between)
    return f"{said} {row.unit}".strip() + (f" ({', '.join(notes)})" if notes else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
