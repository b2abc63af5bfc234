"""``python -m benchmarks.retrieval.live_catalogue``: from an item event to answers without it.

Starts a system of its own with an untrained bundle and made-up behaviour (``--items``, ``--api``
processes), or takes one that ``benchmarks.loadtest.throughput`` prepared (``--state``). Withdraws
an item that stands in an answer by an event over HTTP, asks again until it is gone, offers it again
and asks until it is back; every answer in between is a whole one (rung ``full``). Times run from
before the event is sent. Several API processes are asked in turn, as connections fall: a change is
seen when five answers in a row show it. Prints one JSON line: median, 99th percentile and longest
of each, in milliseconds, and how many changes were counted as late.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.loadtest.system import (
    SERVERS,
    Behaviour,
    System,
    fill,
    find_system,
    make_system,
    user_id,
)
from benchmarks.loadtest.untrained_bundle import add_untrained_bundle
from recsys.clock import now_ms
from recsys.features import current_plan
from recsys.models.config import SourceMix

_PATIENCE_S = 20.0
_PAUSE_S = 0.005
"""Between two questions: what is measured is coarser by that."""
_IN_A_ROW = 5
_LIST_LENGTH = 50
_NUM_USERS = 200
_LATE = "recsys_catalogue_changes_late_total"


def main(argv: list[str] | None = None) -> int:
    """Measure; print one JSON result."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.retrieval.live_catalogue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--api", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args(argv)
    if args.state is not None:
        result = _measure(find_system(args.state).url, args.rounds)
    else:
        with _system(args.items, args.api) as system:
            result = _measure(system.url, args.rounds)
        result |= {"items": args.items, "api_processes": args.api}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


@contextlib.contextmanager
def _system(num_items: int, num_api: int) -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="live-") as folder:
        system = make_system(Path(folder), {"RECSYS_API_WORKERS": str(num_api)})
        try:
            system.run("up", "--only", ",".join(SERVERS))
            settings = system.settings
            plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
            fill(system, num_items, Behaviour(num_users=_NUM_USERS, num_events=5_000))
            bundle = add_untrained_bundle(
                settings.bundle_dir, plan, num_items=num_items, mix=SourceMix(), seed=1
            )
            system.run("publish", bundle)
            yield system
        finally:
            system.run("down")


def _measure(url: str, rounds: int) -> dict[str, Any]:
    gone: list[float] = []
    back: list[float] = []
    # A connection for each request: another API process may take it.
    with httpx.Client(base_url=url, timeout=10.0, headers={"connection": "close"}) as client:
        late = _late(client)
        for turn in range(rounds):
            user = user_id(turn % _NUM_USERS)
            item = _answer(client, user)[turn % _LIST_LENGTH]
            item_id = item["item_id"]
            said = {"title": item.get("title", ""), "category": item.get("category", "")}
            for is_offered, times in ((False, gone), (True, back)):
                event = {
                    "kind": "item", "event_id": uuid.uuid4().hex, "event_time_ms": now_ms(),
                    "item_id": item_id, "available": is_offered, **said,
                }  # fmt: skip
                start = time.perf_counter()
                client.post("/v1/events", json=[event]).raise_for_status()
                times.append(_until(client, user, item_id, is_offered, start))
        return {
            "rounds": rounds, "gone_ms": _summary(gone), "back_ms": _summary(back),
            "late": _late(client) - late,
        }  # fmt: skip


def _answer(client: httpx.Client, user: str) -> list[dict[str, Any]]:
    asked = {"user_id": user, "k": _LIST_LENGTH, "explore": False}
    answer = client.post("/v1/recommendations", json=asked).raise_for_status().json()
    if answer["rung"] != "full":
        raise RuntimeError(f"wanted a whole answer, found {answer['degraded']}")
    items: list[dict[str, Any]] = answer["items"]
    return items


def _until(client: httpx.Client, user: str, item_id: str, is_offered: bool, start: float) -> float:
    """Give the milliseconds until the first of so many answers in a row that are as wanted."""
    in_a_row, seen_s = 0, 0.0
    while in_a_row < _IN_A_ROW:
        shown = any(item["item_id"] == item_id for item in _answer(client, user))
        if shown is not is_offered:
            in_a_row = 0
        elif in_a_row == 0:
            in_a_row, seen_s = 1, time.perf_counter()
        else:
            in_a_row += 1
        if time.perf_counter() - start > _PATIENCE_S:
            raise RuntimeError(f"the change was not seen within {_PATIENCE_S:g} s")
        time.sleep(_PAUSE_S)
    return (seen_s - start) * 1e3


def _summary(times: list[float]) -> dict[str, float]:
    return {
        "p50": round(float(np.percentile(times, 50)), 1),
        "p99": round(float(np.percentile(times, 99)), 1),
        "max": round(max(times), 1),
    }


def _late(client: httpx.Client) -> float:
    """Give the counter of the API, whose processes add theirs up."""
    lines = (line.split() for line in client.get("/metrics").text.splitlines())
    return sum(float(words[1]) for words in lines if words and words[0].startswith(_LATE))


if __name__ == "__main__":
    sys.exit(main())
