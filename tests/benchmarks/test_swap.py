"""An answer that is not whole, and of one bundle, is seen."""

from __future__ import annotations

import json

import pytest

from benchmarks.loadtest.swap import judge


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
