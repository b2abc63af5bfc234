"""What an event costs on its way into the Parquet event log.

Usage::

    python -m benchmarks.event_sink [--events 200000] [--rounds 5] [--profile FILE]

Writes behaviour (nine interactions for each list of ten that was shown) in batches of one poll to a
temporary folder, in one partition, as a stream worker does. Given are CPU microseconds of this
process (all its threads) per event, beside those of decoding the same records, which is the least
any reader does, and bytes per event on disk. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.features.interleaved import surroundings, time_in_turn
from recsys.clock import DAY_MS
from recsys.events.codec import decode_logged, encode
from recsys.events.log import Record, TopicPartition
from recsys.events.log_files import commits
from recsys.events.schema import ImpressionEvent, InteractionEvent
from recsys.events.sink import EventSink

AT = TopicPartition("bench.behaviour", 0)
T0_MS = 19_000 * DAY_MS
_POLL = 20_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; gives 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_sink")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args(argv or [])
    records = some_records(options.events, np.random.default_rng(1))
    events = [decode_logged(record.value) for record in records]
    sizes: list[int] = []

    def sink() -> None:
        with tempfile.TemporaryDirectory() as folder:
            one = EventSink(Path(folder), [AT])
            for begin in range(0, len(records), _POLL):
                end = begin + _POLL
                one.write_run(AT, records[begin:end], events[begin:end])
                one.flush_if_due()
            one.close()
            parts = [p for c in commits(Path(folder), AT.topic) for p in c.commit.parts]
            sizes.append(sum(part.size for part in parts))

    def decode() -> None:
        for record in records:
            decode_logged(record.value)

    taken = time_in_turn({"sink": sink, "decode": decode}, rounds=options.rounds, seed=1)
    if options.profile:
        with cProfile.Profile() as profile:
            sink()
        profile.dump_stats(options.profile)
    per_event = {
        name: round(float(np.median(times["cpu"])) / options.events * 1e6, 2)
        for name, times in taken.items()
    }
    report = {
        "events": options.events,
        "cpu_us_per_event": per_event,
        "bytes_per_event": round(sizes[-1] / options.events, 1),
        **surroundings(),
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def some_records(num: int, rng: np.random.Generator) -> list[Record]:
    """Give the records of ``num`` events of two hours, in the order of their offsets."""
    users = rng.zipf(1.3, num) % 10_000
    items = rng.zipf(1.2, (num, 10)) % 5_000
    late_ms = rng.exponential(2_000, num).astype(int)
    kinds = rng.random(num) < 0.1
    ids = rng.integers(0, 2**63, (num, 2))
    records = []
    for n in range(num):
        when_ms = T0_MS + n * 7_200_000 // num
        event = _event(n, int(users[n]), items[n].tolist(), bool(kinds[n]), ids[n].tolist(),
                       when_ms - int(late_ms[n]))  # fmt: skip
        records.append(Record(*AT, n, event.user_id.encode(), encode(event), when_ms))
    return records


def _event(
    n: int, user: int, items: list[int], is_list: bool, ids: list[int], time_ms: int
) -> ImpressionEvent | InteractionEvent:
    user_id, event_id, request_id = f"user-{user}", f"{ids[0]:016x}{n:08x}", f"{ids[1]:016x}"
    if is_list:
        return ImpressionEvent(
            event_id=event_id, event_time_ms=time_ms, user_id=user_id, request_id=request_id,
            items=[f"item-{item}" for item in items], context={"device": "phone"},
        )  # fmt: skip
    return InteractionEvent(
        event_id=event_id, event_time_ms=time_ms, user_id=user_id, item_id=f"item-{items[0]}",
        type="click" if n % 8 else "purchase", request_id=request_id, position=n % 10,
        context={"device": "phone"},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
