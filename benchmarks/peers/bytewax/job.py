"""The same user windows in Bytewax, run in an environment of its own (``requirements.txt``).

Usage::

    python job.py --bootstrap 127.0.0.1:9092 --topic bench --events 200000 --how hopping

``hopping``: Bytewax's sliding windows, each giving its values after every event (``fold_window``
gives them when a window closes, which for a month is too late for a feature); ``tumbling``: one
bucket for each window, less work and another meaning; ``buckets``: no windows of Bytewax's but
``stateful_map`` over buckets written by hand, the quickest way found. Its documented fast settings:
one worker, the topic read in batches of 1,000, values taken in the order they come
(``ordered=False``), no recovery store, so that state is kept in memory alone and lost with the
process: it does less than our worker.

Prints one JSON line: events handled, seconds of wall and of CPU from the first event to the last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from buckets import DAY, HOUR, MINUTE, State, empty, update
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

LENGTHS = ((HOUR, 5 * MINUTE), (DAY, HOUR), (7 * DAY, DAY), (30 * DAY, DAY))
"""Windows and slides, ms: five aggregates of each make twenty features."""
_ALIGNED = datetime(2020, 1, 1, tzinfo=UTC)
Value = tuple[datetime, int, float]


class Aggregates(win.WindowLogic[Value, tuple[float, ...], list[float]]):
    """Five aggregates of one window, given anew after each event."""

    def __init__(self, state: list[float] | None) -> None:
        self._state = state or [0.0, 0.0, float("inf"), float("-inf")]

    def on_value(self, value: Value) -> Iterable[tuple[float, ...]]:
        """Count it in."""
        state, number = self._state, value[2]
        state[0] += 1.0
        state[1] += number
        if number < state[2]:
            state[2] = number
        if number > state[3]:
            state[3] = number
        return ((state[0], state[1], state[1] / state[0], state[2], state[3]),)

    def on_merge(self, original: Aggregates) -> Iterable[tuple[float, ...]]:
        """Do nothing: these windows never merge."""
        return ()

    def on_close(self) -> Iterable[tuple[float, ...]]:
        """Give nothing: the last event did."""
        return ()

    def snapshot(self) -> list[float]:
        """Give a copy."""
        return list(self._state)


class Clock:
    """Seconds from the first event read to the last result."""

    def __init__(self, results: int) -> None:
        self._left = results
        self._began: tuple[float, float] | None = None
        self.took: tuple[float, float] | None = None

    def begin(self) -> None:
        """Take note of the first event."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()

    def count(self, results: int) -> None:
        """Take note of results."""
        self._left -= results
        if self._left == 0:
            assert self._began is not None
            wall_s, cpu_s = self._began
            self.took = time.perf_counter() - wall_s, time.process_time() - cpu_s


class _Counting(StatelessSinkPartition[Any]):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def write_batch(self, items: list[Any]) -> None:
        self._clock.count(len(items))


class CountingSink(DynamicSink[Any]):
    """Counts results and keeps none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Counting:
        """Give the sink of a worker."""
        return _Counting(self._clock)


def main() -> None:
    """Read the topic from its beginning to its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--how", choices=["hopping", "tumbling", "buckets"], default="hopping")
    options = parser.parse_args()
    results = {
        "hopping": sum(length // slide for length, slide in LENGTHS),
        "tumbling": len(LENGTHS),
        "buckets": 1,
    }[options.how]
    clock = Clock(results * options.events)
    flow = Dataflow("windows")
    source = KafkaSource([options.bootstrap], [options.topic], tail=False, batch_size=1_000)
    messages = op.input("events", flow, source)

    def decoded(message: Any) -> tuple[str, Value]:
        clock.begin()
        event = orjson.loads(message.value)
        time_ms = event["event_time_ms"]
        return event["user_id"], (
            datetime.fromtimestamp(time_ms / 1000, UTC), time_ms, event["value"],
        )  # fmt: skip

    events = op.map("decode", messages, decoded)
    if options.how == "buckets":

        def mapper(state: State | None, value: Value) -> tuple[State, list[tuple[float, ...]]]:
            state = empty() if state is None else state
            return state, update(state, value[1], value[2])

        op.output("out", op.stateful_map("buckets", events, mapper), CountingSink(clock))
    else:
        times = win.EventClock(lambda value: value[0], wait_for_system_duration=timedelta(hours=1))
        for number, (length, slide) in enumerate(LENGTHS):
            span = timedelta(milliseconds=length)
            windower: Any = (
                win.TumblingWindower(length=span, align_to=_ALIGNED)
                if options.how == "tumbling"
                else win.SlidingWindower(
                    length=span, offset=timedelta(milliseconds=slide), align_to=_ALIGNED
                )
            )
            found = win.window(f"w{number}", events, times, windower, Aggregates, ordered=False)
            op.output(f"out{number}", found.down, CountingSink(clock))
    run_main(flow)
    if clock.took is None:
        raise SystemExit(f"wanted {results} results of each of {options.events} events: too few")
    wall_s, cpu_s = clock.took
    result = {"events": options.events, "wall_s": wall_s, "cpu_s": cpu_s}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
