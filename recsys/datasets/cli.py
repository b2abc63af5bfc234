"""``python -m recsys.datasets.cli check|ls|download``: look after data sets (``recsys data``)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.table import Table

from recsys.clock import now_ms
from recsys.datasets.check import MEANINGS, CheckReport, check_dataset
from recsys.datasets.download import download, is_present
from recsys.datasets.load import load_mapping, worked_names
from recsys.errors import RecsysError
from recsys.settings import Settings

PASSED, FAILED, UNUSABLE = 0, 1, 2
"""Exit codes: all checks passed; one failed; nothing could be checked or downloaded."""
_PIPE_COLUMNS = 200
"""Width when nobody watches: lines for grep, not for an eighty-column terminal."""


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> int:
    """Run the command line; give the exit code."""
    arguments = _parser().parse_args(argv)
    settings = settings or Settings()
    try:
        if arguments.command == "check":
            return _check(arguments.mapping, settings, as_json=arguments.json)
        if arguments.command == "ls":
            return _ls(settings, as_json=arguments.json)
        return _download(arguments.name, settings)
    except RecsysError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"recsys data: {error}", markup=False, highlight=False
        )
        return UNUSABLE
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="recsys data", description="Look after data sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="judge a data set: counts, duplicates, orphans")
    check.add_argument(
        "mapping", nargs="?", metavar="NAME_OR_PATH",
        help="a worked mapping or your own .toml file; without it, all that are there",
    )  # fmt: skip
    check.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    ls = commands.add_parser("ls", help="list the known data sets and where they are")
    ls.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    get = commands.add_parser("download", help="fetch a data set from its publisher")
    get.add_argument("name", metavar="NAME_OR_PATH")
    return parser


def _check(name: str | None, settings: Settings, *, as_json: bool) -> int:
    mappings = [load_mapping(n) for n in ([name] if name else worked_names())]
    if name is None:
        mappings = [m for m in mappings if is_present(m, settings.data_dir)]
        if not mappings:
            raise RecsysError(
                f"no data set under {settings.data_dir.absolute()}; run `recsys data download "
                f"NAME` (one of {', '.join(worked_names())}) or set RECSYS_DATA_DIR"
            )
    reports = []
    for mapping in mappings:
        report = check_dataset(mapping, settings.data_dir, now_ms=now_ms())
        reports.append(report)
        if not as_json:
            _show(report, _console())
    if as_json:
        documents = [report.to_dict() for report in reports]
        json.dump(documents[0] if name else documents, sys.stdout, indent=1)
        sys.stdout.write("\n")
    return PASSED if all(report.passed for report in reports) else FAILED


def _show(report: CheckReport, console: Console) -> None:
    console.print(f"[bold]{report.name}[/bold]  {report.folder}")
    console.print(
        "  " + ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items()) + " events"
    )
    for kind, types in report.types.items():
        if types:
            listed = ", ".join(f"{name} {count:,}" for name, count in types.items())
            console.print(f"  {kind} types: {listed}")
    console.print(
        f"  {report.num_active_users:,} active users, {report.num_active_items:,} active items, "
        f"{_iso(report.first_ms)} to {_iso(report.last_ms)}"
    )
    table = Table(box=None, padding=(0, 2))
    for column in ("", "check", "rows", "allowed", "meaning"):
        table.add_column(column, justify="right" if column in ("rows", "allowed") else "left")
    for finding in report.findings:
        if not finding.applies:
            table.add_row(
                "[dim]–[/dim]", finding.check, "", "", f"[dim]{escape(finding.reason)}[/dim]"
            )
            continue
        verdict = "[green]PASS[/green]" if finding.passed else "[bold red]FAIL[/bold red]"
        meaning = escape(MEANINGS[finding.check])
        if finding.reason:
            meaning += f" [dim](allowed: {escape(finding.reason)})[/dim]"
        table.add_row(verdict, finding.check, f"{finding.count:,}", f"{finding.allowed:,}", meaning)
    console.print(table)
    for finding in report.findings:
        if not finding.passed:
            for first in finding.first:
                console.print(f"  {finding.check}: {first}", markup=False)
    verdict = "[green]PASS[/green]" if report.passed else "[bold red]FAIL[/bold red]"
    console.print(f"  {verdict}\n")


def _ls(settings: Settings, *, as_json: bool) -> int:
    known = []
    for name in worked_names():
        mapping = load_mapping(name)
        known.append(
            {
                "name": name,
                "title": mapping.title,
                "licence": mapping.licence,
                "present": is_present(mapping, settings.data_dir),
                "folder": str(mapping.data_folder(settings.data_dir).absolute()),
                "url": mapping.download.url if mapping.download else None,
            }
        )
    if as_json:
        json.dump(known, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return PASSED
    table = Table(box=None, padding=(0, 2))
    for column in ("name", "here", "folder", "what", "licence"):
        table.add_column(column, no_wrap=column == "folder")
    for entry in known:
        here = "[green]yes[/green]" if entry["present"] else "no"
        table.add_row(entry["name"], here, entry["folder"], entry["title"], entry["licence"])  # type: ignore[arg-type]
    _console().print(table)
    return PASSED


def _download(name: str, settings: Settings) -> int:
    mapping = load_mapping(name)
    console = Console(stderr=True, soft_wrap=True)
    with Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    ) as bars:  # fmt: skip
        task = bars.add_task(f"downloading {mapping.name}", total=None)
        result = download(
            mapping,
            settings.data_dir,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if result.archive is None:
        console.print(f"{mapping.name} is already in {result.folder}")
        return PASSED
    came = "downloaded" if result.fetched else "found"
    console.print(f"{came} {result.archive} (sha256 {result.sha256})")
    console.print(f"{mapping.name} is in {result.folder}; look at it: recsys data check {name}")
    return PASSED


def _console() -> Console:
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    return console


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


if __name__ == "__main__":
    sys.exit(main())
