"""The examples in docstrings hold."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["cli", "statistics", "vocabulary", "world"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"recsys.simulation.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
