"""A system of this study's own, up only while something is measured with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.loadtest.system import System, find_system, make_system
from recsys.errors import ServerError


@contextmanager
def running(folder: Path, *servers: str) -> Iterator[System]:
    """Give the system in ``folder`` with these servers up; they are down at the end.

    What a run left up that was killed is taken down first.
    """
    try:
        system = find_system(folder)
    except ServerError:  # none was made there yet
        system = make_system(folder, {})
    else:
        system.run("down")
    try:
        system.run("up", "--only", ",".join(servers))
        system.find_processes()
        yield system
    finally:
        system.run("down")
