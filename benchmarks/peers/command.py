"""``python -m benchmarks peers``: the other systems, what each is compared on, and what is built.

::

    python -m benchmarks peers                     # the list
    python -m benchmarks peers --json              # the same with settings, for programs
    python -m benchmarks peers --install bytewax   # make an environment now; `all` makes each

Environments are made when first needed; those of the project's own lock come with ``make setup``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.environments import python_of, state_of
from benchmarks.peers.registry import PEERS, Peer, find
from recsys.errors import ConfigurationError
from recsys.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """List, or install; 1 when an environment could not be made, 2 for an unknown name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--install", metavar="NAME", help="a peer, its environment, or `all`")
    options = parser.parse_args(argv)
    state_dir = Settings().state_dir
    if options.install:
        return _install(options.install, state_dir)
    if options.json:
        rows = [_row(peer, state_dir) for peer in PEERS]
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    for peer in PEERS:
        row = _row(peer, state_dir)
        sys.stdout.write(
            f"{peer.name} {row['version'] or '(not run)'}: {peer.compared_on}\n"
            f"    {row['state']}\n"
            + ("" if peer.reason else f"    python -m {peer.command}; docs/{peer.page}\n")
        )
    return 0


def _row(peer: Peer, state_dir: Path) -> dict[str, str]:
    state = f"not run: {peer.reason}"
    if not peer.reason:
        state = (
            f"environment {peer.environment}: {state_of(peer.environment, state_dir)}"
            if peer.environment
            else "environment of this project"
        )
    return {
        "name": peer.name,
        "version": peer.version,
        "compared_on": peer.compared_on,
        "state": state,
        "command": "" if peer.reason else f"python -m {peer.command}",
        "settings": peer.settings,
        "page": f"docs/{peer.page}",
    }


def _install(name: str, state_dir: Path) -> int:
    peer = find(name)
    if peer is None and name != "all":
        known = ", ".join(p.name for p in PEERS)
        sys.stderr.write(f"peers: wanted one of {known} or all, found {name!r}\n")
        return 2
    if peer is not None and peer.reason:
        sys.stderr.write(f"peers: {peer.name} is not run: {peer.reason}\n")
        return 1
    environments = [peer.environment] if peer else sorted({p.environment or "" for p in PEERS})
    failed = 0
    for environment in environments:
        if not environment:
            sys.stdout.write("of this project: made by `make setup`\n")
            continue
        try:
            sys.stdout.write(f"{environment}: {python_of(environment, state_dir)}\n")
        except ConfigurationError as error:
            sys.stderr.write(f"peers: {error}\n")
            failed = 1
    return failed
