"""``python -m benchmarks.peers.serving``: ours and its serving peers, asked in turns.

Usage::

    python -m benchmarks.loadtest.throughput prepare --state DIR
    python -m benchmarks.peers.serving --state DIR --peers one_process,ray_serve_batched,ours

on a prepared system. One service is measured at a time; in each round every one has a turn, in an
order of that round: alone, at one rate for all, as much as it can answer, and the greatest rate
whose p99 is within the limit (``--p99``, 50 ms; each has its own ``--out``). Before a peer's turn
it has to give the lists that ours gives, for the same users at the same moment; one that does not
is not measured. Environments of peers are made from their pinned requirements when first needed.
Each turn is kept when it ends, and a run that was stopped goes on with those that are missing
(``--minutes`` ends one in time). Progress and a table go to standard error, one JSON result to
standard output: medians over rounds and the ratios of ours to each peer, with what was measured by
then. A peer that cannot be installed, does not answer or answers otherwise is named with the
reason; exit code 1 then, or when turns are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loadtest.stretch import Asking
from benchmarks.loadtest.system import System, find_system, user_id
from benchmarks.peers.serving.report import ratios, same_lists, summary, table
from benchmarks.peers.serving.same_lists import (
    SCORES_WITHIN,
    lists_of,
    require_same_lists,
    shared_at_least,
    write_anew,
)
from benchmarks.peers.serving.services import OURS, PEERS, python_for, up, versions
from benchmarks.peers.serving.turn import Schedule, take_turn
from benchmarks.peers.serving.turns_file import TurnsFile
from benchmarks.peers.surroundings import commit, surroundings
from benchmarks.termination import ended_by_sigterm
from recsys.bundle.store import BundleStore
from recsys.errors import ConfigurationError, InputError, RecsysError, ServerError

_DEFAULT = "one_process,two_processes,ray_serve_batched,ours"


def main(argv: Sequence[str] | None = None) -> int:
    """Take the turns that are missing, as far as time goes, and print what is known."""
    options = _parser().parse_args(argv)
    try:
        names = _names(options.peers)
        system = find_system(options.state)
        record = json.loads((options.state / "prepared.json").read_text())
        with ended_by_sigterm():  # so that what stands still goes on again
            result, is_whole = _run(options, names, system, record)
    except (RecsysError, OSError) as error:
        sys.stderr.write(f"serving: {error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if is_whole else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.serving")
    parser.add_argument("--state", type=Path, required=True, help="folder of the prepared system")
    parser.add_argument("--peers", default=_DEFAULT, help=f"of {', '.join((*PEERS, OURS))}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no turn after; 0: any")
    parser.add_argument("--rate", type=float, default=5.0, help="at which all are asked")
    parser.add_argument("--p99", type=float, default=50.0, help="limit of the rate kept, ms")
    parser.add_argument("--out", type=Path, help="folder of the turns; default: in the state")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _names(peers: str) -> list[str]:
    names = peers.split(",")
    unknown = [name for name in names if name != OURS and name not in PEERS]
    if unknown or len(set(names)) < len(names):
        raise InputError(
            f"--peers: wanted some of {', '.join((*PEERS, OURS))}, each once, found {peers!r}"
        )
    return names


def _run(
    options: argparse.Namespace, names: list[str], system: System, record: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    system.resume()
    schedule = Schedule(seed=options.seed, rate=options.rate)
    schedule = replace(schedule, limit=replace(schedule.limit, p99_ms=options.p99))
    bundle_id = record["bundles"]["towers"]
    least = shared_at_least(record["items"])
    known = {
        "schedule": asdict(schedule),
        "bundle": bundle_id,
        "items": record["items"],
        "same_lists": {"shared_at_least": least, "scores_within": SCORES_WITHIN},
    }
    turns = TurnsFile(options.out or options.state / "serving", known)
    failed = _install([name for name in names if name != OURS], options.state)
    if OURS in names and BundleStore(system.settings.bundle_dir).live() != bundle_id:
        system.run("publish", bundle_id)
    users = tuple(user_id(n) for n in range(record["users"]))
    bundle = system.settings.bundle_dir / bundle_id

    def compare(name: str, port: int) -> dict[str, Any]:
        return require_same_lists(
            name,
            lambda: lists_of(system.settings.api_port),
            lambda: lists_of(port),
            lambda: write_anew(system, options.state, record["items"]),
            least,
        )

    start, longest_s = time.monotonic(), 0.0
    for round_ in range(options.rounds):
        rng = np.random.default_rng([options.seed, round_])
        for place in rng.permutation(len(names)).tolist():
            name = names[place]
            if name in failed or turns.find(round_, name) is not None:
                continue
            begun = time.monotonic()
            if options.minutes and begun + longest_s - start > 60 * options.minutes:
                continue
            _say(f"round {round_ + 1} of {options.rounds}: {name}")
            try:
                with up(name, system, bundle, options.state, partial(compare, name)) as service:
                    _say(f"  up after {time.monotonic() - begun:.1f} s; {service.same_lists or ''}")
                    asking = Asking(host="127.0.0.1", port=service.port, user_ids=users)
                    turn = take_turn(service, asking, schedule, round_, lambda s: _say("  " + s))
            except ServerError as error:
                failed[name] = str(error)
                _say(f"  failed: {error}")
                continue
            turns.keep(round_, name, turn | {"commit": commit(), "taken_at": int(time.time())})
            longest_s = max(longest_s, time.monotonic() - begun)
    return _result(options, names, turns, failed, schedule)


def _install(peers: list[str], state: Path) -> dict[str, str]:
    """Make the environments that are missing; give why some could not be."""
    failed = {}
    for name in peers:
        try:
            python_for(name, state)
        except ConfigurationError as error:
            failed[name] = str(error)
            _say(f"{name}: not installed: {error}")
    return failed


def _result(
    options: argparse.Namespace,
    names: list[str],
    turns: TurnsFile,
    failed: dict[str, str],
    schedule: Schedule,
) -> tuple[dict[str, Any], bool]:
    taken = turns.all(names, options.rounds)
    measured = {name: of for name, of in taken.items() if of}
    missing = {
        name: options.rounds - len(of) for name, of in taken.items() if len(of) < options.rounds
    }
    if measured:
        _say(table(measured, schedule.rate))
    if missing:
        _say(f"turns that are missing: {missing}")
    peers = [name for name in measured if name != OURS]
    result = {
        "benchmark": "peers.serving",
        "services": {name: summary(of) for name, of in measured.items()},
        "ours_over_peer": {
            name: ratios(measured[OURS], measured[name]) for name in peers if OURS in measured
        },
        "same_lists": {name: same_lists(measured[name]) for name in peers},
        "settings": {name: PEERS[name].settings for name in peers},
        "versions": {name: versions(name, options.state) for name in peers},
        "failed": failed,
        "missing_turns": missing,
        "turns": {name: list(of.values()) for name, of in measured.items()},
        "measured_as": turns.measured_as,
        "seed": options.seed,
        "commits": sorted({turn["commit"] for of in measured.values() for turn in of.values()}),
        **surroundings(),
    }
    return result, not missing


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
