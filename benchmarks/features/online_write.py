"""``python -m benchmarks.features.online_write``: rows per second, Feast's SDK beside ours.

Batches of 1,000 rows of 8 floats (and of one vector of 20). ``push`` and ``write_to_online_store``
are Feast's ways from a data frame; ours writes columns, an atomic newer-wins guard for each row.
Every batch has later times than the one before, so every row passes the guard and is written.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from benchmarks.features.interleaved import ratio, summary, surroundings, time_in_turn
from benchmarks.features.online_repo import FLOATS, frame, run
from recsys.features.column_writer import ColumnWriter
from recsys.features.feast_declarations import plan_of_store
from recsys.features.redis.client import RedisClient
from recsys.features.row_packer import RowPacker

ROWS, COLUMNS, NUM_IDS = 1_000, 8, 20_000


def main(argv: list[str] | None = None) -> int:
    """Measure; print one JSON result."""
    return run("online_write", argv, _measure, rounds=40)


def _measure(theirs: Any, ours: Any, url: str, rounds: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    plan, client = plan_of_store(ours), RedisClient(url)
    writer = ColumnWriter(client, RowPacker(plan.view("written"), plan.project))
    vectors = ColumnWriter(client, RowPacker(plan.view("written_vec"), plan.project))
    names = FLOATS[:COLUMNS]
    batches = [
        (
            rng.choice(NUM_IDS, ROWS, replace=False),
            rng.standard_normal((ROWS, len(FLOATS)), dtype=np.float32),
        )
        for _ in range(20)
    ]
    frames = [frame("item_id", ids, values[:, :COLUMNS]) for ids, values in batches]
    turn, start = [0], datetime.now(UTC)

    def batch() -> tuple[int, datetime]:
        turn[0] += 1
        return turn[0] % len(batches), start + timedelta(milliseconds=turn[0])

    def framed() -> Any:
        place, moment = batch()
        return frames[place].assign(event_timestamp=moment)

    def columns(writes: ColumnWriter, as_vector: bool) -> None:
        place, moment = batch()
        ids, values = batches[place]
        given = {"vec": values} if as_vector else dict(zip(names, values.T, strict=False))
        times = np.full(ROWS, int(moment.timestamp() * 1e6), dtype=np.int64)
        times += np.arange(ROWS)  # as of a stream, each row has its own
        if writes.write({"item_id": ids}, given, times).written != ROWS:
            raise RuntimeError("a row was refused")

    taken = time_in_turn(
        {
            "push": lambda: theirs.push("written_push", framed()),
            "write_to_online_store": lambda: theirs.write_to_online_store("written", framed()),
            "plugin_write_to_online_store": lambda: ours.write_to_online_store("written", framed()),
            "ours": lambda: columns(writer, as_vector=False),
            "ours_vector_of_20": lambda: columns(vectors, as_vector=True),
        },
        rounds=rounds,
        seed=seed,
    )
    client.close()
    wall = {name: times["wall"] for name, times in taken.items()}
    return {
        "what": f"batches of {ROWS} rows x {COLUMNS} floats",
        **surroundings(),
        "times": summary(taken),
        "rows_per_s": {name: round(ROWS / float(np.median(t))) for name, t in wall.items()},
        "ratios": {
            f"{name} / ours": ratio(wall[name], wall["ours"], seed=seed)
            for name in ("push", "write_to_online_store", "plugin_write_to_online_store")
        },
        "bars": {"push / ours": ">= 8"},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
