"""A bundle is loaded at the lowest priority; what answers then has the usual one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serving.model_repository import gentle_start
from serving.model_repository.gentle_start import TritonPythonModel


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


class Served:
    def __init__(self, args: dict[str, str]) -> None:
        if "wrong" in args:
            raise ValueError("no such bundle")
        self.loaded_at = niceness()

    def start(self) -> None:
        self.started_at = niceness()
        self.of_thread: list[int] = []
        thread = threading.Thread(target=lambda: self.of_thread.append(niceness()))
        thread.start()
        thread.join()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [niceness() for _ in requests]

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> TritonPythonModel:
    backend = ModuleType("backend")  # the real one imports what only Triton's process has
    backend.ServedModel = Served  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "serving.model_repository.backend", backend)
    monkeypatch.setattr(gentle_start, "leave_session", lambda: False)  # of the tests' process
    return TritonPythonModel()


def test_only_the_loading_is_gentle(
    model: TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = niceness()
    monkeypatch.setattr(gentle_start, "others_are_loaded", lambda: True)
    model.initialize({})
    served: Any = model._served
    assert served.loaded_at == 19
    assert [served.started_at, *served.of_thread, niceness()] == [usual] * 3
    assert model.execute([1, 2]) == [usual, usual]
    model.finalize()
    assert served.stopped


def test_what_is_wrong_with_a_bundle_is_said(model: TritonPythonModel) -> None:
    with pytest.raises(ValueError, match="no such bundle"):
        model.initialize({"wrong": "yes"})


def test_nobody_waits_for_a_bundle_that_is_alone(
    model: TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gentle_start, "others_are_loaded", lambda: False)
    model.initialize({})
    served: Any = model._served
    assert served.loaded_at == niceness()


def test_it_is_no_longer_gentle_where_it_would_not_end(
    model: TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = niceness()
    monkeypatch.setattr(gentle_start, "others_are_loaded", lambda: True)
    monkeypatch.setattr(gentle_start, "_GENTLY_S", 0.1)
    may = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20
    seen = []

    class Slow(Served):
        def __init__(self, args: dict[str, str]) -> None:
            super().__init__(args)
            ends_s = time.monotonic() + (20 if may else 0.3)
            while niceness() != usual and time.monotonic() < ends_s:
                time.sleep(0.01)
            seen.append((niceness(), os.sched_getscheduler(0)))

    monkeypatch.setattr(sys.modules["serving.model_repository.backend"], "ServedModel", Slow)
    model.initialize({})
    served: Any = model._served
    assert served.loaded_at == 19
    if may:
        assert seen == [(usual, os.SCHED_OTHER)]


SERVER = """
import subprocess, sys
model = [sys.executable, "-c", sys.argv[1]]
others = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
          for _ in range(int(sys.argv[2]))]
subprocess.run(model, check=True)
for other in others:
    other.communicate(b"\\n")
"""
MODEL = "from serving.model_repository import gentle_start as g; print(g.others_are_loaded())"


@pytest.mark.parametrize(("others", "said"), [(0, "False"), (1, "True")])
def test_other_models_of_the_server_are_seen(others: int, said: str) -> None:
    command = [sys.executable, "-c", SERVER, MODEL, str(others)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == said


LOADING = """
import sys, time
from types import ModuleType
from serving.model_repository import gentle_start

def weight():
    return open("/proc/self/autogroup").read().split()[-1]

class Served:
    def __init__(self, args):
        print(weight())
        if sys.argv[1] == "wrong":
            raise ValueError
        ends_s = time.monotonic() + 20
        while sys.argv[1] == "slow" and weight() != "0" and time.monotonic() < ends_s:
            time.sleep(0.01)
    def start(self):
        print(weight())
    def stop(self):
        print(weight())

backend = ModuleType("backend")
backend.ServedModel = Served
sys.modules["serving.model_repository.backend"] = backend
gentle_start.others_are_loaded = lambda: sys.argv[1] != "alone"
gentle_start._GENTLY_S = 0.1 if sys.argv[1] == "slow" else 45.0
model = gentle_start.TritonPythonModel()
try:
    model.initialize({})
except ValueError:
    print(weight())
else:
    print(weight())
    model.finalize()
"""


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this kernel does not weigh sessions"
)
@pytest.mark.parametrize(
    ("how", "weights"),
    [
        *(("beside", "19 19 0 19"), ("wrong", "19 0"), ("alone", "0 0 0 19")),
        ("slow", "19 0 0 19"),
    ],
)
def test_the_process_counts_least_but_while_it_answers(how: str, weights: str) -> None:
    command = [sys.executable, "-c", LOADING, how]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == weights.split()
