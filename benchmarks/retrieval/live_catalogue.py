"""``python -m benchmarks.retrieval.live_catalogue``: from an item event to answers that know of it.

Starts a system of its own with an untrained bundle and made-up behaviour (``--items``, ``--api``
processes), or takes one that ``benchmarks.loadtest.throughput`` prepared (``--state``). Withdraws
an item that stands in an answer by an event over HTTP, asks again until it is gone, offers it again
and asks by a tag of its own until it is back; every answer in between is a whole one (rung
``full``). Times run from before the event is sent. Several API processes are asked in turn, as
connections fall: a change is seen when five answers in a row show it.

Then as many items are created, each with a tag that it alone has, and asked for by that tag until
an answer is that item; and as many are described anew as what another item is (title, category,
price), and the neighbours of that other one are asked for until the changed item is the nearest, or
nearer than it was: its embedding is another. At last ``--burst`` items are created at once, while
one caller asks without a pause. Of each call that created some, the last one is asked for by its
tag; the time is that from before the call. ``--no-rounds`` does the burst alone.

Prints one JSON line: median, 99th percentile and longest of each, in milliseconds, and how many
changes were counted as late.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
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
from benchmarks.loadtest.untrained_bundle import add_untrained_bundle, category_of
from recsys.clock import now_ms
from recsys.features import current_plan
from recsys.models.config import SourceMix

_PATIENCE_S = 20.0
_PAUSE_S = 0.005
"""Between two questions: what is measured is coarser by that."""
_IN_A_ROW = 5
_LIST_LENGTH = 50
_NUM_USERS = 200
_ALIKE = 0.999
"""Cosine of items that are described alike, and of no others."""
_QUIET_S = 5.0
_EVENTS_A_CALL = 500
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
    parser.add_argument("--no-rounds", action="store_true", help="the burst alone")
    parser.add_argument("--burst", type=int, default=10_000, help="items created at once; 0: none")
    parser.add_argument("--index", action="store_true", help="serve with an approximate index")
    args = parser.parse_args(argv)
    rounds = 0 if args.no_rounds else args.rounds
    if args.state is not None:
        result = _measure(find_system(args.state).url, rounds, args.burst)
    else:
        with _system(args.items, args.api, with_index=args.index) as system:
            result = _measure(system.url, rounds, args.burst)
        result |= {"items": args.items, "api_processes": args.api}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


@contextlib.contextmanager
def _system(num_items: int, num_api: int, *, with_index: bool) -> Iterator[System]:
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
            if with_index:
                bundle = json.loads(system.run("bundle", "index", bundle))["bundle_id"]
            system.run("publish", bundle)
            yield system
        finally:
            system.run("down")


def _measure(url: str, rounds: int, burst: int) -> dict[str, Any]:
    gone: list[float] = []
    back: list[float] = []
    created: list[float] = []
    changed: list[float] = []
    # A connection for each request: another API process may take it.
    with httpx.Client(base_url=url, timeout=10.0, headers={"connection": "close"}) as client:
        late = _late(client)
        for turn in range(rounds):
            user = user_id(turn % _NUM_USERS)
            item = _answer(client, user)[turn % _LIST_LENGTH]
            item_id = item["item_id"]
            said = {"title": item.get("title", ""), "category": item.get("category", "")}
            start = time.perf_counter()
            event = _event(item_id, available=False, **said)
            client.post("/v1/events", json=[event]).raise_for_status()
            gone.append(_until_gone(client, user, item_id, start))
            # By its tag: of an untrained bundle's item the event says something new, and its
            # embedding is another.
            start = time.perf_counter()
            client.post("/v1/events", json=[_event(item_id, **said)]).raise_for_status()
            back.append(_until_found(client, user, item_id, start))
        for turn in range(rounds):
            user, said = user_id(turn % _NUM_USERS), _said(turn)
            item_id = f"created-{turn}-{uuid.uuid4().hex[:8]}"
            start = time.perf_counter()
            client.post("/v1/events", json=[_event(item_id, **said)]).raise_for_status()
            created.append(_until_found(client, user, item_id, start))
            # The same item as something else: nearest to what is described so already.
            other = f"created-{turn}-other-{uuid.uuid4().hex[:8]}"
            told = _said(turn + 1) | {"title": f"{turn} became {uuid.uuid4().hex[:6]}"}
            told |= {"attributes": {"only": other}}
            client.post("/v1/events", json=[_event(other, **told)]).raise_for_status()
            _until_found(client, user, other, time.perf_counter())
            before = _cosine(client, other, item_id)
            start = time.perf_counter()
            client.post("/v1/events", json=[_event(item_id, **told)]).raise_for_status()
            changed.append(_until_nearest(client, other, item_id, before, start))
        found: dict[str, Any] = {"rounds": rounds}
        if rounds:
            found |= {
                "gone_ms": _summary(gone), "back_ms": _summary(back),
                "created_ms": _summary(created), "changed_ms": _summary(changed),
            }  # fmt: skip
        if burst:
            found |= _burst(client, burst)
        return found | {"late": _late(client) - late}


def _event(item_id: str, **said: Any) -> dict[str, Any]:
    return {
        "kind": "item", "event_id": uuid.uuid4().hex, "event_time_ms": now_ms(),
        "item_id": item_id, "attributes": {"only": item_id}, **said,
    }  # fmt: skip


def _said(turn: int) -> dict[str, Any]:
    """Give what a made-up item is."""
    category = category_of(turn)
    return {"title": f"thing {turn} of {category}", "category": category, "price": 1.0 + turn % 50}


def _found(client: httpx.Client, user: str, item_id: str) -> bool:
    asked = {"user_id": user, "k": 1, "explore": False, "filters": {"tags": [f"only={item_id}"]}}
    answer = client.post("/v1/recommendations", json=asked).raise_for_status().json()
    if answer["rung"] != "full":
        raise RuntimeError(f"wanted a whole answer, found {answer['degraded']}")
    return [item["item_id"] for item in answer["items"]] == [item_id]


def _until_found(client: httpx.Client, user: str, item_id: str, start: float) -> float:
    return _until_so(lambda: _found(client, user, item_id), start)


def _cosine(client: httpx.Client, item_id: str, other_id: str) -> float:
    """Give how near another item is to one; -1 where it is not among the nearest."""
    answer = client.get(f"/v1/items/{item_id}/similar", params={"k": 500})
    if answer.status_code == 404:  # an API process that has not heard of it yet
        return -1.0
    items = answer.raise_for_status().json()["items"]
    return next((item["score"] for item in items if item["item_id"] == other_id), -1.0)


def _until_nearest(
    client: httpx.Client, item_id: str, other_id: str, before: float, start: float
) -> float:
    """Wait until the other item, which is described alike, is as near as can be."""
    if before > _ALIKE:
        raise RuntimeError(f"{other_id} was as near to {item_id} before it was changed: {before}")
    return _until_so(lambda: _cosine(client, item_id, other_id) > _ALIKE, start)


def _until_so(check: Callable[[], bool], start: float) -> float:
    """Give the milliseconds until the first of so many times in a row that something holds."""
    in_a_row, seen_s = 0, 0.0
    while in_a_row < _IN_A_ROW:
        if not check():
            in_a_row = 0
        elif in_a_row == 0:
            in_a_row, seen_s = 1, time.perf_counter()
        else:
            in_a_row += 1
        if time.perf_counter() - start > _PATIENCE_S:
            raise RuntimeError(f"the change was not seen within {_PATIENCE_S:g} s")
        time.sleep(_PAUSE_S)
    return (seen_s - start) * 1e3


def _burst(client: httpx.Client, count: int) -> dict[str, Any]:
    """Create many items at once, and say what requests felt before and meanwhile."""
    name = uuid.uuid4().hex[:8]
    events = [_event(f"burst-{name}-{n}", **_said(n)) for n in range(count)]
    quiet = _asked_for(client, lambda spent_s: spent_s > _QUIET_S)
    num_calls = -(-count // _EVENTS_A_CALL)
    sent: list[tuple[str, float, float]] = []
    """Of each call its last item, when it began and when it was answered."""

    def send() -> None:
        with httpx.Client(base_url=str(client.base_url), timeout=60.0) as sender:
            for begin in range(0, count, _EVENTS_A_CALL):
                some = events[begin : begin + _EVENTS_A_CALL]
                began_s = time.perf_counter()
                sender.post("/v1/events", json=some).raise_for_status()
                sent.append((some[-1]["item_id"], began_s, time.perf_counter()))

    start = time.perf_counter()
    thread = threading.Thread(target=send)
    thread.start()
    waited_ms: list[float] = []
    in_a_row, seen_s = 0, 0.0

    def is_done(spent_s: float) -> bool:
        nonlocal in_a_row, seen_s
        if len(waited_ms) == num_calls:
            return True
        if len(waited_ms) >= len(sent) or not _found(client, user_id(0), sent[len(waited_ms)][0]):
            in_a_row = 0
            return False
        if in_a_row == 0:
            seen_s = time.perf_counter()
        in_a_row += 1
        # Of several API processes one may be behind; of the last item it shows in all of them.
        if in_a_row == _IN_A_ROW or len(waited_ms) < num_calls - 1:
            waited_ms.append((seen_s - sent[len(waited_ms)][1]) * 1e3)
            in_a_row = 0
        return False

    meanwhile = _asked_for(client, is_done)
    thread.join()
    return {
        "burst": count, "burst_sent_s": round(sent[-1][2] - start, 2),
        "burst_found_s": round(seen_s - start, 2), "burst_waited_ms": _summary(waited_ms),
        "request_ms": {"before": _summary(quiet), "meanwhile": _summary(meanwhile)},
    }  # fmt: skip


def _asked_for(client: httpx.Client, is_done: Callable[[float], bool]) -> list[float]:
    """Ask one request after the other; give the time of each in milliseconds."""
    times: list[float] = []
    start = time.perf_counter()
    while not is_done(time.perf_counter() - start):
        began = time.perf_counter()
        _answer(client, user_id(len(times) % _NUM_USERS))
        times.append((time.perf_counter() - began) * 1e3)
        if time.perf_counter() - start > 10 * _PATIENCE_S:
            raise RuntimeError("what was created at once was not found")
    return times


def _answer(client: httpx.Client, user: str) -> list[dict[str, Any]]:
    asked = {"user_id": user, "k": _LIST_LENGTH, "explore": False}
    answer = client.post("/v1/recommendations", json=asked).raise_for_status().json()
    if answer["rung"] != "full":
        raise RuntimeError(f"wanted a whole answer, found {answer['degraded']}")
    items: list[dict[str, Any]] = answer["items"]
    return items


def _until_gone(client: httpx.Client, user: str, item_id: str, start: float) -> float:
    def is_gone() -> bool:
        return all(item["item_id"] != item_id for item in _answer(client, user))

    return _until_so(is_gone, start)


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
