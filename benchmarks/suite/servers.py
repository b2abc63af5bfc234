"""A Kafka and a Redis of the suite's own, started when the first benchmark wants them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.loadtest.system import find_system, make_system
from recsys.errors import ServerError


class Servers:
    """Started on first use."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._environment: dict[str, str] | None = None

    def environment(self) -> dict[str, str]:
        """Give the environment in which a benchmark finds them."""
        if self._environment is None:
            self._down()  # what a run left that was killed
            system = make_system(self._state_dir, {})
            system.run("up", "--only", "redis,kafka")
            self._environment = system.environment
        return self._environment

    def stop(self) -> None:
        """Take them down, if they run, so that they take nothing from what is measured next."""
        if self._environment is not None:
            self._down()
            self._environment = None

    def _down(self) -> None:
        if self._state_dir.exists():
            try:
                system = find_system(self._state_dir)
            except ServerError:  # none was ever made there
                return
            system.run("down")


@contextmanager
def servers_in(state_dir: Path) -> Iterator[Servers]:
    """Give servers that are down again at the end, whatever happens before."""
    servers = Servers(state_dir)
    try:
        yield servers
    finally:
        servers.stop()
