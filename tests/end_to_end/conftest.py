"""One whole system for the story's tests: started, filled, trained and published by commands."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.end_to_end.system import System

WORLD = ("--users", "300", "--items", "200", "--days", "8", "--world-start", "recent")


def start_system(folder: Path, **changes: object) -> System:
    """Give a system with ports, a folder and a namespace of its own; nothing runs yet."""
    return System(
        servers.session_settings(
            folder.name,
            RECSYS_STATE_DIR=folder / "var",
            RECSYS_NAMESPACE=f"e{uuid.uuid4().hex[:8]}",
            RECSYS_PARTITIONS=2,
            **changes,
        )
    )


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = start_system(tmp_path_factory.mktemp("system"))
    try:
        system.run("up")
        system.run("simulate", "--preset", "demo", *WORLD, "--to-kafka")
        system.run("lag", "--wait")
        system.run("train", "--recipe", "debug", "--dataset", "simulated")
        system.run("publish")
        yield system
    finally:
        system.run("down")
