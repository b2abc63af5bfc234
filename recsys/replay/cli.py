"""``recsys answer REQUEST_ID``: a past answer computed again, with any difference shown.

Prints a table, or with ``--json`` one JSON result. Exit code 0 when all that could be computed
again is equal to the last bit, 1 when something differs, 2 for a mistake, 3 when there is no such
answer. With ``--json`` a difference is no failure: the result says it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from recsys.endpoints import resolve
from recsys.errors import ConfigurationError
from recsys.replay.catalogue_then import changes_until
from recsys.replay.exit_codes import NOT_FOUND
from recsys.replay.find import find_exposure
from recsys.replay.recompute import replay
from recsys.settings import Settings
from recsys.wire import ReplayResponse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="recsys answer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("request_id", help="`request_id` of the answer")
    parser.add_argument(
        "--contributions", action="store_true",
        help="say which features made the scores (integrated gradients)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON result")
    args = parser.parse_args(argv)
    settings = Settings()
    exposure = find_exposure(settings, resolve(settings), args.request_id)
    if exposure is None:
        sys.stderr.write(
            f"recsys answer: no exposure of request {args.request_id!r} in "
            f"{settings.event_log_dir} or in Kafka: it was never answered, has expired, or "
            "was forgotten with its user\n"
        )
        return NOT_FOUND
    found = replay(
        settings,
        exposure,
        with_contributions=args.contributions,
        changes_since=lambda manifest: changes_until(
            settings, resolve(settings), manifest.lineage.log_positions, exposure.now_ms
        ),
    )
    if args.json:
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        return 0
    _print(found)
    return 1 if found.different else 0


def _print(found: ReplayResponse) -> None:
    console = Console(highlight=False)
    console.print(
        f"{found.route} for {found.user_id}, bundle {found.bundle}, rung {found.rung}, "
        f"policy {found.policy}, rules {found.rules or 'none'}"
    )
    table = Table(box=None)
    for column in ("part", "outcome", "compared", "different", "largest", ""):
        table.add_column(column)
    for part in found.parts:
        table.add_row(
            part.name, part.outcome, str(part.num_compared), str(part.num_different),
            f"{part.max_abs_diff:.3g}", part.detail,
        )  # fmt: skip
    console.print(table)
    for item in found.items:
        console.print(f"{item.position:3} {item.item_id}  {item.logged_score}")
        for one in item.contributions:
            value = "" if one.value is None else f" = {one.value:.6g}"
            console.print(f"      {one.contribution:+.4f}  {one.feature}{value}")
        if item.base is not None:
            console.print(
                f"      {item.other_contributions:+.4f}  all others, from {item.base:+.4f} "
                "knowing nothing"
            )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigurationError as error:
        sys.stderr.write(f"recsys answer: {error}\n")
        sys.exit(2)
