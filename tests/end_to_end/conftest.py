"""One whole system for the story's tests: started, filled, trained and published by commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.system import System, start_system

WORLD = ("--users", "300", "--items", "200", "--days", "8", "--world-start", "recent")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = start_system(tmp_path_factory.mktemp("system"))
    try:
        system.run("up")
        system.run("simulate", "--preset", "demo", *WORLD, "--to-kafka")
        system.run("lag", "--wait")
        system.run(
            "train", "--no-tracking", "--no-ray", "--recipe", "debug", "--dataset", "simulated"
        )
        system.run("publish")
        yield system
    finally:
        system.run("down")
