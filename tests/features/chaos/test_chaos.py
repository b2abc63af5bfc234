"""A few points of each kind; ``make verify-stream`` runs hundreds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recsys.settings import Settings
from tests.features.chaos.run import Chaos

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
FOLDER = "RECSYS_TEST_SESSION_DIR"


def test_killed_stopped_and_restarted_the_features_are_those_of_a_quiet_run(
    own_settings: Settings, kafka_bootstrap: str
) -> None:
    points = ["kill", "store", "sleep", "start", "broker", "kill", "stop"]
    Chaos(own_settings, Path(os.environ[FOLDER]), seed=1).run(points)


def test_a_store_that_comes_back_empty_is_filled_from_the_event_log(
    own_settings: Settings, kafka_bootstrap: str
) -> None:
    points = ["kill", "store", "sleep"]
    Chaos(own_settings, Path(os.environ[FOLDER]), seed=2, store="lost").run(points)


def test_nodes_of_a_cluster_are_killed_and_fail_over(
    own_settings: Settings, kafka_bootstrap: str
) -> None:
    points = ["store", "kill", "store"]
    Chaos(own_settings, Path(os.environ[FOLDER]), seed=3, store="cluster").run(points)
