"""What the suite starts for benchmarks: a Kafka and a Redis, and a whole system with behaviour."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from benchmarks.loadtest.system import find_system, make_system
from recsys.errors import ServerError


class Stops(Protocol):
    """Something that runs."""

    def stop(self) -> None:
        """Take it down, if it runs, so that it takes nothing from what is measured next."""


S = TypeVar("S", bound=Stops)


class Servers:
    """A Kafka and a Redis, started on first use."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._environment: dict[str, str] | None = None

    def environment(self) -> dict[str, str]:
        """Give the environment in which a benchmark finds them."""
        if self._environment is None:
            _down(self._state_dir)  # what a run left that was killed
            system = make_system(self._state_dir, {})
            system.run("up", "--only", "redis,kafka")
            self._environment = system.environment
        return self._environment

    def stop(self) -> None:
        """See ``Stops``."""
        if self._environment is not None:
            _down(self._state_dir)
            self._environment = None


class PreparedSystem:
    """What ``benchmarks.loadtest.throughput prepare`` makes, made on first use.

    Made anew by each run of the suite: events that lie in Kafka for a day are other events by then.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._was_begun = self._is_ready = False

    def state_dir(self) -> Path:
        """Give its folder, which benchmarks take as ``--state``. Raises ServerError."""
        if not self._is_ready:
            _down(self._state_dir)
            shutil.rmtree(self._state_dir, ignore_errors=True)
            self._was_begun = True
            command = ("benchmarks.loadtest.throughput", "prepare", "--state", self._state_dir)
            prepared = subprocess.run(
                [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, check=False
            )
            if prepared.returncode:
                raise ServerError(
                    "wanted a system to measure, found exit code "
                    f"{prepared.returncode} of `python -m {' '.join(map(str, command))}`; see above"
                )
            self._is_ready = True
        return self._state_dir

    def stop(self) -> None:
        """See ``Stops``."""
        if self._was_begun:
            _down(self._state_dir)
        self._was_begun = self._is_ready = False


def _down(state_dir: Path) -> None:
    if state_dir.exists():
        try:
            system = find_system(state_dir)
        except ServerError:  # none was ever made there
            return
        system.run("down")


@contextmanager
def closing_down(what: S) -> Iterator[S]:
    """Give what is down again at the end, whatever happens before."""
    try:
        yield what
    finally:
        what.stop()
