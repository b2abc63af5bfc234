"""A bundle is loaded at the lowest priority; what answers then has the usual one."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest

from recsys.spare_time import FOR_GOOD, can_be_taken_back
from serving.model_repository import gentle_start
from serving.model_repository.gentle_start import TritonPythonModel

LEAST = 19 if can_be_taken_back() else FOR_GOOD


def arguments(bundle: Path, **more: str) -> dict[str, str]:
    parameters = {"bundle_path": {"string_value": str(bundle)}}
    return {"model_config": json.dumps({"parameters": parameters}), **more}


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


class Served:
    def __init__(self, args: dict[str, str]) -> None:
        assert not gc.isenabled()
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
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonPythonModel]:
    backend = ModuleType("backend")  # the real one imports what only Triton's process has
    backend.ServedModel = Served  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "serving.model_repository.backend", backend)
    monkeypatch.setattr(gentle_start, "leave_session", lambda: False)  # of the tests' process
    monkeypatch.setattr(gentle_start, "SpareTimeLimit", Unlimited)  # it forks: see LOADING
    yield TritonPythonModel()
    gc.unfreeze()


class Unlimited:
    starved = False

    def __init__(self, limit_s: float, *, session: bool, starved_s: float) -> None:
        assert limit_s in (0.0, 45.0)
        assert (session, starved_s) == (False, 0.7)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_only_the_loading_is_gentle(
    model: TritonPythonModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual = niceness()
    monkeypatch.setattr(gentle_start, "others_are_loaded", lambda: True)
    model.initialize(arguments(tmp_path / "b"))
    served: Any = model._served
    assert served.loaded_at == LEAST
    assert [served.started_at, *served.of_thread, niceness()] == [usual] * 3
    assert model.execute([1, 2]) == [usual, usual]
    assert gc.isenabled() and gc.get_freeze_count() > 1000, "what was loaded is not looked through"
    model.finalize()
    assert served.stopped


def test_what_is_wrong_with_a_bundle_is_said(model: TritonPythonModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such bundle"):
        model.initialize(arguments(tmp_path / "b", wrong="yes"))
    assert gc.isenabled()


def test_nobody_waits_for_a_bundle_that_is_alone(
    model: TritonPythonModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gentle_start, "others_are_loaded", lambda: False)
    model.initialize(arguments(tmp_path / "b"))
    served: Any = model._served
    assert served.loaded_at == niceness()


@pytest.mark.parametrize(
    ("pointer", "waits"), [('{"bundle_id": "b"}', True), ('{"bundle_id": "a"}', False), ("", False)]
)
def test_nobody_waits_for_the_bundle_that_should_answer(
    model: TritonPythonModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pointer: str,
    waits: bool,
) -> None:
    monkeypatch.setattr(gentle_start, "others_are_loaded", lambda: True)
    (tmp_path / "live.json").write_text(pointer)
    model.initialize(arguments(tmp_path / "b"))
    served: Any = model._served
    assert served.loaded_at == (niceness() if waits else LEAST)


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
import json, sys, time
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
gentle_start.SPARE_S = 0.1 if sys.argv[1] == "slow" else 45.0
class Starved(gentle_start.SpareTimeLimit):
    def __exit__(self, *of):
        super().__exit__(*of)
        self.starved = True
if sys.argv[1] == "starved":
    gentle_start.SpareTimeLimit = Starved
model = gentle_start.TritonPythonModel()
parameters = {"bundle_path": {"string_value": "/of/no/store"}}
try:
    model.initialize({"model_config": json.dumps({"parameters": parameters})})
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
    [("beside", "19 19 0 0"), ("wrong", "19 0"), ("alone", "0 0 0 0"), ("slow", "19 0 0 0")],
)
def test_the_process_counts_least_but_while_it_answers(how: str, weights: str) -> None:
    command = [sys.executable, "-c", LOADING, how]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == weights.split()


def test_what_triton_may_have_taken_for_dead_ends() -> None:
    command = [sys.executable, "-c", LOADING.replace("print(weight())", "pass"), "starved"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "load the model again" in done.stderr


LEAVING = """
import atexit
from serving.model_repository.gentle_start import leave_at_once

class Held:
    def __del__(self):
        print("taken down")

held = Held()
atexit.register(leave_at_once)
atexit.register(lambda: print("registered later"))
print("finalized")
"""


def test_its_end_takes_nothing_down_and_loses_nothing_said() -> None:
    command = [sys.executable, "-c", LEAVING]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.splitlines() == ["finalized", "registered later"]
