"""``recsys forget --user ID``: erase a user everywhere, and prove it.

::

    recsys forget --user 42 --dry-run      what there is, and where
    recsys forget --user 42                erase it; may be cut off at any moment and run again
    recsys forget --user 42 --json         the proof as one JSON document on stdout

The stream workers must run: they remove the user's features, and the event log is rewritten once
they are past the record that says so. Exit code 0 when nothing is left, 1 when something is, 2 when
it could not be done or said. Records in Kafka stay until its retention removes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from recsys.endpoints import resolve
from recsys.erasure.forget import ForgetConfig, Forgetting
from recsys.erasure.proof import Proof
from recsys.errors import InputError, RecsysError
from recsys.events.kafka import Retention
from recsys.features.quality.moments import age
from recsys.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Erase or look; 0 when nothing is left, 1 when something is, 2 on an error."""
    options = _parser().parse_args(argv)
    console = Console(stderr=True, highlight=False)
    try:
        if not options.timeout > 0:
            raise InputError(f"--timeout: wanted seconds above 0, found {options.timeout:g}")
        settings = Settings()
        forgetting = Forgetting(
            settings,
            resolve(settings),
            config=ForgetConfig(timeout_s=options.timeout),
            say=lambda line: console.print(f"{line} …"),
        )
        try:
            find = forgetting.look if options.dry_run else forgetting.forget
            proof = find(options.user)
        finally:
            forgetting.close()
    except RecsysError as error:
        sys.stderr.write(f"recsys forget: {error}\n")
        return 2
    if options.json:
        sys.stdout.write(json.dumps(proof.document()) + "\n")
    else:
        _show(proof)
    return 0 if proof.dry_run or proof.is_complete else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys forget", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--user", metavar="ID", required=True, help="the user's id, as in events")
    parser.add_argument("--dry-run", action="store_true", help="only say what there is")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument(
        "--timeout", type=float, default=ForgetConfig.timeout_s,
        help="longest wait for the workers, in seconds",
    )  # fmt: skip
    return parser


def _show(proof: Proof) -> None:
    console = Console(highlight=False)
    table = Table()
    for name in ("where", "searched", "found", "removed", "left", "newer", "of it"):
        numeric = name in ("found", "removed", "left", "newer")
        table.add_column(name, justify="right" if numeric else "left")
    for place in proof.places:
        numbers = (place.num_found, place.num_removed, place.num_left, place.num_newer)
        table.add_row(place.name, place.searched, *map(str, numbers), place.unit)
    console.print(table)
    for place in proof.places:
        if place.note:
            console.print(f"{place.name}: {place.note}", markup=False)
    console.print(_said_of_kafka(proof.kafka), markup=False)
    if proof.dry_run:
        console.print("dry run: nothing was changed")
    elif proof.is_complete:
        console.print(
            f"forgotten from {proof.topic}[{proof.partition}] offset {proof.offset} back; "
            "nothing is left here",
            markup=False,
        )
    else:
        console.print("not complete: run the command again", markup=False)


def _said_of_kafka(topics: Sequence[Retention] | None) -> str:
    if topics is None:
        return (
            "Kafka: the records sent stay until its retention removes them; the broker does not "
            "say when that is"
        )
    times = ", ".join(f"{one.topic} {_kept_for(one)}" for one in topics)
    return f"Kafka: the records sent stay until its retention removes them ({times})"


def _kept_for(one: Retention) -> str:
    if "delete" not in one.cleanup_policy:
        return f"{one.cleanup_policy}: the newest of each key for ever"
    if one.retention_ms < 0:
        return "for ever"
    return age(one.retention_ms)


if __name__ == "__main__":
    sys.exit(main())
