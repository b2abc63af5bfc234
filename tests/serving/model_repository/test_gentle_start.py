"""A bundle is loaded at the lowest priority; what it starts then has the usual one."""

from __future__ import annotations

import os
import sys
import threading
from types import ModuleType
from typing import Any

import pytest

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
    return TritonPythonModel()


def test_only_the_loading_is_gentle(model: TritonPythonModel) -> None:
    usual = niceness()
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
