"""Several API processes on one port: they share callers and metrics, and one's end is its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.features.worker_files import api_ready_file
from recsys.settings import Settings
from serving.supervisor.members import api_workers
from tests.servers import free_ports

NUMBERS = (0, 1)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Settings, dict[int, subprocess.Popen[bytes]]]]:
    """Two workers whose servers behind are away: ``/healthz`` asks nobody else."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    nowhere = f"127.0.0.1:{free_ports(1)}"
    variables = {
        "RECSYS_STATE_DIR": str(tmp_path / "var"),
        "RECSYS_API_PORT": str(free_ports(1)),
        "RECSYS_API_WORKERS": "2",
        "REDIS_URL": f"redis://{nowhere}/0",
        "KAFKA_BOOTSTRAP_SERVERS": nowhere,
        "TRITON_GRPC_URL": nowhere,
    }
    settings = Settings.model_validate(variables)
    environment = os.environ | variables | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    processes = {}
    with (tmp_path / "log").open("wb") as log:
        for number in NUMBERS:
            processes[number] = subprocess.Popen(
                [sys.executable, "-m", "serving.api", "--number", str(number)],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not all(api_ready_file(settings, number).exists() for number in NUMBERS):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        yield settings, processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait(10)


def _get(settings: Settings, path: str) -> str:
    """Ask over a connection of its own, so that the kernel chooses the worker anew."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{settings.api_port}{path}", timeout=5.0
    ) as answer:
        return answer.read().decode()


def _asked(settings: Settings) -> int:
    found = re.search(
        r'recsys_requests_total\{route="healthz",status="200"\} (\d+)', _get(settings, "/metrics")
    )
    return int(found[1]) if found else 0


def _wait_until_asked(settings: Settings, requests: int) -> None:
    deadline = time.monotonic() + 10
    while (asked := _asked(settings)) != requests:
        assert asked < requests, f"{asked} counted of {requests} sent"
        assert time.monotonic() < deadline, f"{asked} counted of {requests} sent"
        time.sleep(0.02)


def test_workers_share_a_port_and_their_metrics_and_outlive_each_other(
    workers: tuple[Settings, dict[int, subprocess.Popen[bytes]]],
) -> None:
    settings, processes = workers
    for _ in range(60):
        _get(settings, "/healthz")
    # A worker counts a request once its answer is on its way, so the last may still be missing.
    _wait_until_asked(settings, 60)
    # Each alone would know of about half.
    assert {_asked(settings) for _ in range(12)} == {60}

    processes[1].send_signal(signal.SIGKILL)
    processes[1].wait(10)
    lost = 0
    for _ in range(60):
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            _get(settings, "/healthz")
            continue
        lost += 1
    assert lost == 0
    _wait_until_asked(settings, 120)


def test_the_plan_has_every_worker_on_one_port(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"RECSYS_STATE_DIR": tmp_path, "RECSYS_API_WORKERS": 3, "RECSYS_API_PORT": free_ports(1)}
    )
    members = api_workers(settings)
    launches = [member.launch for member in members if member.launch is not None]
    assert [launch.name for launch in launches] == ["api", "api-1", "api-2"]
    assert {tuple(launch.ports) for launch in launches} == {(settings.api_port,)}
    folder = Path(launches[0].environment["PROMETHEUS_MULTIPROC_DIR"])
    launches[0].before_start()
    (folder / "counter_1.db").touch()
    launches[0].before_start()  # started again: what others count stays
    assert (folder / "counter_1.db").exists()


def test_a_variable_set_too_late_changes_nothing(tmp_path: Path) -> None:
    asked = (
        "import os, sys, recsys.telemetry\n"
        "from serving.api.shared_metrics import metrics_text\n"
        "os.environ['PROMETHEUS_MULTIPROC_DIR'] = sys.argv[1]  # as importing Feast does\n"
        "assert b'recsys_requests_total' in metrics_text()\n"
    )
    without = {name: v for name, v in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    command = [sys.executable, "-c", asked, str(tmp_path)]
    subprocess.run(command, env=without, check=True, timeout=60)
