"""Fourteen labels on which point-in-time joins go wrong, and the answers, found by hand.

``python -m tests.features.offline_store.adversarial FOLDER STORE`` prints a store's answers to all
variants, so that a test can ask them in a process of another time zone.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa

from tests.features.offline_store import repositories

# The hours around New York's clock change of 2026: 2026-11-01 06:00 UTC is its second one o'clock.
T = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)
TTL = timedelta(days=1)
MINUTE, MICROSECOND = timedelta(minutes=1), timedelta(microseconds=1)

ITEMS = [  # item, event, created, score, name
    (10, T - 3 * MINUTE, T - 3 * MINUTE, 1.0, "old"),
    (10, T, T, 2.0, "now"),
    (11, T - MINUTE, T - MINUTE, 3.0, "first"),
    (11, T - MINUTE, T + MINUTE, 4.0, "third"),  # the latest created wins, wherever it stands
    (11, T - MINUTE, T, 5.0, "second"),
    (12, T + MINUTE, T + MINUTE, 6.0, "future"),
    (13, T - TTL, T - TTL, 7.0, "edge"),
    (14, T - TTL - MICROSECOND, T - TTL, 8.0, "expired"),
    (15, T - 2 * MINUTE, T - 2 * MINUTE, 9.0, "value"),
    (15, T - MINUTE, T - MINUTE, None, None),  # the newest value is null, and null it is
    (16, T - 5 * MINUTE, T + 5 * MINUTE, 10.0, "late"),  # happened before, known after
    (16, T - 9 * MINUTE, T - 9 * MINUTE, 11.0, "known"),
]
USERS = [  # user, event, created, ids
    (1, T - MINUTE, T - MINUTE, [3]),
    (2, T - 2 * MINUTE, T - 2 * MINUTE, [1, 2, 3]),
    (2, T - MINUTE, T - MINUTE, []),
    (3, T - MINUTE, T - MINUTE, None),
    (4, T + MICROSECOND, T, [9]),
]
LABELS = [  # user, item, moment
    (1, 10, T),
    (1, 11, T),  # the same user and moment, another item
    (1, 10, T),  # all the same again
    (2, 10, T - MICROSECOND),  # just before a row
    (2, 12, T),  # only a row of the future
    (3, 13, T),  # to the microsecond as old as the TTL allows
    (3, 14, T),  # one more
    (4, 15, T),
    (4, 16, T),
    (99, 98, T),  # neither is known
    (1, 16, T + 6 * MINUTE),
    (2, 11, T + MINUTE),
    (2, 11, T - 2 * MINUTE),
    (1, 10, T - 10 * timedelta(days=1)),
]
# (score, name, ids) of each label.
EXPECTED = [
    (2.0, "now", [3]),
    (4.0, "third", [3]),
    (2.0, "now", [3]),
    (1.0, "old", []),
    (None, None, []),
    (7.0, "edge", None),
    (None, None, None),
    (None, None, None),
    (10.0, "late", None),
    (None, None, None),
    (10.0, "late", [3]),
    (4.0, "third", []),
    (None, None, [1, 2, 3]),
    (None, None, None),
]
KNOWN = [*EXPECTED]  # with filter_by_created_timestamp
KNOWN[1] = (5.0, "second", [3])
KNOWN[8] = (11.0, "known", None)

VARIANTS = list(
    itertools.product(
        ("utc", "naive", "new_york"), ("aware", "naive"), ("items", "users"), (False, True)
    )
)
"""Zone of the labels' moments, of the source's times, view asked for first, knowledge time."""


def answers(folder: Path, offline: str, variants: list[Any] | None = None) -> list[Any]:
    """A store's answer to each variant: the labels it gives back, and their values."""
    from feast.types import Array, Float64, Int64, String

    user, item = repositories.entity("user_id"), repositories.entity("item_id")
    given: list[Any] = []
    for source in ("aware", "naive"):
        there = folder / source
        kind = pa.timestamp("us", "UTC" if source == "aware" else None)

        def times(values: Any, kind: pa.DataType = kind) -> pa.Array:
            return pa.array([v.replace(tzinfo=None) for v in values], pa.timestamp("us")).cast(
                pa.int64()
            ).cast(kind)  # fmt: skip

        ids, event, created, score, name = zip(*ITEMS, strict=True)
        repositories.write(
            there / "items.parquet",
            {
                "item_id": pa.array(ids, pa.int64()),
                "event_timestamp": times(event),
                "created": times(created),
                "score": pa.array(score, pa.float64()),
                "name": pa.array(name),
            },
            row_group_size=5,
        )
        ids, event, created, lists = zip(*USERS, strict=True)
        repositories.write(
            there / "users.parquet",
            {
                "user_id": pa.array(ids, pa.int64()),
                "event_timestamp": times(event),
                "created": times(created),
                "ids": pa.array(lists, pa.list_(pa.int64())),
            },
            row_group_size=2,
        )
        store = repositories.store(there, offline)
        store.apply(
            [
                user,
                item,
                repositories.view(
                    "items", there / "items.parquet", [item],
                    {"score": Float64, "name": String}, ttl=TTL,
                ),
                repositories.view(
                    "users", there / "users.parquet", [user], {"ids": Array(Int64)}, ttl=TTL
                ),
            ]
        )  # fmt: skip
        for variant in variants or VARIANTS:
            zone, which, first, knowledge = variant
            if which != source:
                continue
            moments = pd.to_datetime([moment for _, _, moment in LABELS], utc=True)
            if zone == "naive":
                moments = moments.tz_localize(None)
            elif zone == "new_york":
                moments = moments.tz_convert(ZoneInfo("America/New_York"))
            frame = pd.DataFrame(
                {
                    "user_id": [u for u, _, _ in LABELS],
                    "item_id": [i for _, i, _ in LABELS],
                    "event_timestamp": moments,
                }
            )
            features = ["items:score", "items:name", "users:ids"]
            answer = store.get_historical_features(
                frame,
                features if first == "items" else features[::-1],
                filter_by_created_timestamp=knowledge,
            ).to_arrow()
            labels = [
                (u, i, moment.astimezone(UTC).isoformat())
                for u, i, moment in repositories.rows(
                    answer, ("user_id", "item_id", "event_timestamp")
                )
            ]
            given.append((variant, labels, repositories.rows(answer, ("score", "name", "ids"))))
    return given


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.stdout.write(json.dumps(answers(Path(sys.argv[1]), sys.argv[2])))
