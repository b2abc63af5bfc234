"""``recsys keys create | list | revoke | rotate``: who may call the API."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from recsys.clock import now_ms
from recsys.errors import InputError
from recsys.security.key_file import KeyFile
from recsys.security.keys import ApiKey
from recsys.security.listening import key_file
from recsys.security.scopes import SCOPES
from recsys.settings import Settings

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="recsys keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("--scope", action="append", choices=SCOPES, required=True)
    create.add_argument("--owner", required=True, help="who to ask about it")
    create.add_argument("--expires-in", type=duration_ms, metavar="90d", help="default: never")
    create.add_argument("--rate", type=float, help="requests a second")
    create.add_argument("--burst", type=int, help="requests at once")
    listed = commands.add_parser("list", help="all keys; of none the secret is known")
    listed.add_argument("--json", action="store_true", help="for programs")
    revoke = commands.add_parser("revoke", help="end a key within a quarter of a second")
    revoke.add_argument("key_id")
    rotate = commands.add_parser("rotate", help="make a key that takes another's place")
    rotate.add_argument("key_id")
    rotate.add_argument(
        "--grace", type=duration_ms, default=duration_ms("1d"), metavar="1d",
        help="how long the old one stays good (1d)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    keys = key_file(Settings())
    if args.command == "create":
        if args.rate is not None and args.rate <= 0:
            parser.error(f"--rate must be above 0; found {args.rate}")
        if args.burst is not None and args.burst < 1:
            parser.error(f"--burst must be 1 or more; found {args.burst}")
        expires_ms = now_ms() + args.expires_in if args.expires_in is not None else None
        _show_once(
            keys.create(
                tuple(dict.fromkeys(args.scope)),
                owner=args.owner,
                expires_ms=expires_ms,
                rate_per_s=args.rate,
                burst=args.burst,
            )
        )
    elif args.command == "rotate":
        _show_once(keys.rotate(args.key_id, grace_ms=args.grace))
    elif args.command == "revoke":
        record = keys.revoke(args.key_id)
        sys.stdout.write(json.dumps({"key_id": record.key_id, "state": "revoked"}) + "\n")
    else:
        _list(keys, as_json=args.json)
    return 0


def duration_ms(text: str) -> int:
    """Read ``30s``, ``15m``, ``12h`` or ``90d``."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"wanted a number and s, m, h or d (90d), found {text!r}")
    return int(found[1]) * _UNIT_MS[found[2]]


def _show_once(key: ApiKey) -> None:
    sys.stderr.write("keep it: it cannot be shown again\n")
    sys.stdout.write(json.dumps({"key_id": key.key_id, "key": key.text}) + "\n")


def _list(keys: KeyFile, *, as_json: bool) -> None:
    now = now_ms()
    records = keys.read()
    if as_json:
        shown = [
            {**record.model_dump(exclude={"sha256"}), "state": record.state(now)}
            for record in records
        ]
        sys.stdout.write(json.dumps(shown) + "\n")
        return
    table = Table()
    for title in ("key", "state", "scopes", "owner", "created (UTC)", "expires (UTC)", "rate"):
        table.add_column(title)
    for record in records:
        table.add_row(
            record.key_id, record.state(now), " ".join(record.scopes), record.owner,
            _when(record.created_ms), _when(record.expires_ms),
            f"{record.rate_per_s:g}/s" if record.rate_per_s else "",
        )  # fmt: skip
    Console(markup=False).print(table)


def _when(time_ms: int | None) -> str:
    if time_ms is None:
        return "never"
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError) as error:
        raise InputError(f"wanted a time in ms, found {time_ms}") from error


if __name__ == "__main__":
    sys.exit(main())
