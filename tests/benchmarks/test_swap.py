"""An answer that is not whole, and of one bundle, is seen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.loadtest.paced import Paced
from benchmarks.loadtest.swap import blocks, judge


def answer(items: list[int], *, bundle: str = "aa", rung: str = "full") -> bytes:
    shown = [{"item_id": f"si{number}", "score": 1.0} for number in items]
    return json.dumps(
        {"items": shown, "bundle": bundle, "rung": rung}, separators=(",", ":")
    ).encode()


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, answer([1, 4, 7]), "200 full"),
        (200, answer([3, 6, 9], bundle="bb"), "200 full"),
        (200, answer([1, 4, 7], rung="popular"), "200 popular"),
        (200, answer([1, 2, 4]), "mixed"),
        (200, answer([1, 4, 7], bundle="bb"), "mixed"),
        (200, answer([1, 4, 7], bundle="cc"), "mixed"),
        (200, answer([1, 4]), "2 items"),
        (503, b"{}", "503"),
    ],
)
def test_answers_are_told_apart(status: int, body: bytes, found: str) -> None:
    assert judge({"aa": 1, "bb": 0}, 3)(status, body) == found


def paced(due_s: list[float], latency_s: list[float]) -> Paced:
    return Paced(
        due_s=np.array(due_s),
        latency_s=np.array(latency_s), lateness_s=np.zeros(len(due_s)),
        waited_s=np.array(latency_s), labels=["200 full"] * len(due_s), elapsed_s=9.0,
        given_up=False, generator_cpu_s=0.0,
    )  # fmt: skip


def test_a_stretch_falls_into_pieces_of_time_and_loses_no_request() -> None:
    found = blocks(paced([0.0, 29.9, 30.0, 61.0, 70.0], [1, 2, 3, float("nan"), 5]), 30.0)
    assert [block.tolist() for block in found] == [[1.0, 2.0], [3.0, np.inf, 5.0]]
    found = blocks(paced([0.0, 30.0, 80.0], [1, 2, 3]), 30.0)
    assert [block.tolist() for block in found] == [[1.0], [2.0], [3.0]]
    assert blocks(paced([], []), 30.0) == []
