"""``recsys features check [--at TIME]``: are the features as the Feast repository expects them?

Computes every feature of every entity at a moment from the event log and judges the expectations
declared as tags. Exit code 1 when one fails, 2 when it cannot be judged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from recsys.errors import RecsysError
from recsys.features import current_plan
from recsys.features.quality.check import Finding, check
from recsys.features.quality.moments import parse_moment, spelt
from recsys.features.quality.snapshot import values_at
from recsys.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Check; 0 when everything passes, 1 when something fails, 2 when it cannot be judged."""
    parser = argparse.ArgumentParser(
        prog="recsys features check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--at", default="now", metavar="TIME", help="ISO 8601 (UTC) or epoch ms")
    parser.add_argument("--json", action="store_true", help="findings as JSON on standard output")
    options = parser.parse_args(argv)
    settings = Settings()
    try:
        moment_ms = parse_moment(options.at)
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        snapshot = values_at(settings.event_log_dir, plan, moment_ms)
        findings = check(plan, snapshot, moment_ms)
    except RecsysError as error:
        sys.stderr.write(f"recsys features check: {error}\n")
        return 2
    failed = sum(not f.passed for f in findings)
    if options.json:
        rows = [f._asdict() | {"passed": f.passed} for f in findings]
        document = {"at_ms": moment_ms, "num_failed": failed, "findings": rows}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        Console().print(_table(findings))
        sys.stdout.write(f"{len(findings)} rules at {spelt(moment_ms)}: {failed} failed\n")
    return 1 if failed else 0


def _table(findings: Sequence[Finding]) -> Table:
    table = Table()
    for name in ("", "view", "feature", "rule", "wanted", "found", "values", "violations", "first"):
        table.add_column(name, justify="right" if name in ("values", "violations") else "left")
    for f in findings:
        verdict = "[green]PASS[/]" if f.passed else "[bold red]FAIL[/]"
        numbers = (str(f.num_values), str(f.num_violations))
        cells = (f.view, f.feature or "(view)", f.rule, f.wanted, f.found, *numbers)
        table.add_row(verdict, *cells, f.first_offender)
    return table


if __name__ == "__main__":
    sys.exit(main())
