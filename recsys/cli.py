"""``recsys COMMAND``: the doors of the system, one line each.

A command of another top-level package (serving, training, benchmarks) is run by name, as ``python
-m`` would: this package knows that such a door exists, not what is behind it.
"""

from __future__ import annotations

import errno
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from recsys.errors import RecsysError
from recsys.security.redaction import redact

FAILED, INTERRUPTED = 2, 130
_OF_THE_MACHINE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "give this user the right to it",
    errno.EPERM: "give this user the right to it",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOTDIR: "choose a folder",
}
"""What can be wrong with a disk or a folder, and what to do; anything else is a mistake of ours."""


@dataclass(frozen=True, slots=True)
class Command:
    """One door."""

    module: str
    """Run as ``__main__``, with ``sys.argv`` as if it had been called itself."""
    help: str
    passes_name: bool = False
    """The module serves several commands and wants this one's name as its first argument."""


COMMANDS: dict[str, Command] = {
    "up": Command("serving.supervisor", "start Redis, Kafka, Triton, workers and the API", True),
    "down": Command("serving.supervisor", "stop everything that `up` started", True),
    "status": Command("serving.supervisor", "show what runs, where, and whether it answers", True),
    "logs": Command("serving.supervisor", "show what the servers print", True),
    "demo": Command("recsys.demo.run", "watch the whole system work, from events to answers"),
    "data": Command("recsys.datasets.cli", "check, fetch and turn your own tables into events"),
    "simulate": Command("recsys.simulation.cli", "make events of a simulated world"),
    "replay": Command("recsys.events.replay_cli", "send a file of events to Kafka"),
    "features": Command(
        "recsys.features.cli", "apply the Feast repository; show, check and audit features"
    ),
    "answer": Command("recsys.replay.cli", "compute a past answer again, and say why it was so"),
    "log": Command("recsys.events.log_cli", "list, verify, compact and expire the event log"),
    "forget": Command("recsys.erasure.cli", "erase a user everywhere, and prove it"),
    "lag": Command("recsys.features.lag_cli", "show, or await, how far the worker is behind"),
    "dead-letters": Command(
        "recsys.events.dead_letters_cli", "show refused records, and replay them after a fix"
    ),
    "backfill": Command("serving.backfill", "compute features anew from the event log"),
    "train": Command("training.train", "train towers and ranker, evaluate, write a bundle"),
    "tune": Command("training.tune", "search for a better recipe, within a budget"),
    "leave-one-out": Command(
        "training.leave_one_out.command", "judge a next-item model by the published protocol"
    ),
    "evaluate": Command(
        "training.report.cli", "judge a bundle on the log, against another; write its report"
    ),
    "pipeline": Command(
        "training.pipeline.cli", "run and schedule the chain from log to live bundle"
    ),
    "compress": Command(
        "training.compression.cli", "make a bundle in smaller numbers, if it loses little enough"
    ),
    "bundle": Command("recsys.bundle.cli", "list, verify, point to and roll back bundles"),
    "rules": Command("recsys.ranking.rules_cli", "check and install merchandising rules"),
    "publish": Command("serving.publish", "load a bundle into Triton and make it live"),
    "keys": Command(
        "recsys.security.cli", "say who may call the API: create, list, revoke, rotate"
    ),
    "loadtest": Command(
        "benchmarks.loadtest", "send load to a service, find the rate that holds an objective"
    ),
    "capacity": Command("benchmarks.capacity", "measure how cost grows, plan what a load takes"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code.

    Exit codes of our own: 2 for an error that can be explained (one line on standard error) and
    for a command that does not exist, 130 when interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        _list_commands()
        return 0
    name, *rest = given
    command = COMMANDS.get(name)
    if command is None:
        sys.stderr.write(f"recsys: no command {name!r} (found: {', '.join(COMMANDS)})\n")
        return FAILED
    return _run(name, command, rest)


def _run(name: str, command: Command, rest: list[str]) -> int:
    if not _exists(command.module):
        sys.stderr.write(
            f"recsys {name}: wanted the module {command.module}, found none; run `make setup` in a "
            "whole checkout\n"
        )
        return FAILED
    before = sys.argv
    # argparse names the program after this in its messages.
    sys.argv = ["recsys" if command.passes_name else f"recsys {name}"]
    sys.argv += [name, *rest] if command.passes_name else rest
    try:
        runpy.run_module(command.module, run_name="__main__", alter_sys=False)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
            return 1
        return ended.code or 0
    except RecsysError as error:
        sys.stderr.write(f"recsys {name}: {redact(str(error))}\n")
        return FAILED
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        sys.stderr.write(
            f"recsys {name}: wanted to use {error.filename or 'a file'}, found: {error.strerror}; "
            f"{_OF_THE_MACHINE[error.errno]}, or set RECSYS_STATE_DIR to another folder\n"
        )
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    finally:
        sys.argv = before
    return 0


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _list_commands() -> None:
    console = Console(highlight=False)
    console.print("recsys COMMAND …   (recsys COMMAND --help says more)\n")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, command in COMMANDS.items():
        table.add_row(f"  {name}", command.help)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
