"""``recsys rules check [FILE] | install FILE | show``: the operator's rules and exploration.

``check`` reads a file as the API would and says which of its names the live bundle does not have.
``install`` does the same and puts the file in force. ``show`` prints what is in force. The format
stands in docs/reranking.md; the file in force is RECSYS_RULES_FILE.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from recsys.bundle.served import load_served_bundle
from recsys.bundle.store import BundleStore
from recsys.errors import RecsysError
from recsys.ranking.operator_file import install, read_operator_file
from recsys.ranking.operator_rules import NO_RULES, OperatorRules
from recsys.ranking.request_rules import bind
from recsys.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code: 1 when a name is unknown to the live bundle."""
    parser = argparse.ArgumentParser(
        prog="recsys rules",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is wrong with a file, or unknown")
    check.add_argument("file", type=Path, nargs="?", help="default: the file in force")
    put = commands.add_parser("install", help="check a file and put it in force")
    put.add_argument("file", type=Path)
    commands.add_parser("show", help="print the rules in force as JSON")
    args = parser.parse_args(argv)
    settings = Settings()
    try:
        if args.command == "show":
            in_force = settings.rules_path
            rules = read_operator_file(in_force) if in_force.exists() else NO_RULES
            sys.stdout.write(msgspec.json.encode(rules).decode() + "\n")
            return 0
        if args.command == "install":
            return _said(settings, install(args.file, settings.rules_path))
        return _said(settings, read_operator_file(args.file or settings.rules_path))
    except RecsysError as error:
        sys.stderr.write(f"recsys rules: {error}\n")
        return 2


def _said(settings: Settings, rules: OperatorRules) -> int:
    store = BundleStore(settings.bundle_dir)
    live = store.live()
    unknown: tuple[str, ...] = ()
    if live is not None:
        unknown = bind(rules, load_served_bundle(store.path(live))).unknown
    sys.stdout.write(
        json.dumps(
            {
                "version": rules.version,
                "rules": len(rules.rules),
                "exploration": rules.exploration.described() if rules.exploration else None,
                "bundle": live,
                "unknown": unknown,
            }
        )
        + "\n"
    )
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
