"""The join over arrays, held against its definition written as a loop."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.offline_store.asof import NO_TIME, AsOf

FAR = [NO_TIME + 1, -(2**62), 0, 2**62, 2**63 - 1]
TIMES = st.one_of(st.integers(0, 4), st.sampled_from(FAR))
LABELS = st.lists(st.tuples(st.integers(-1, 3), TIMES, st.integers(0, 3)), min_size=1, max_size=12)
ROWS = st.lists(
    st.tuples(st.integers(0, 4), TIMES, st.one_of(TIMES, st.just(NO_TIME))), max_size=24
)


def by_definition(
    labels: list[Any], rows: list[Any], *, limited: bool, created: bool, knowledge: bool
) -> list[int]:
    answer = []
    for key, latest, span in labels:
        best: tuple[int, int, int] | None = None
        for position, (row_key, event, made) in enumerate(rows):
            counts = row_key == key and event <= latest
            counts &= not limited or event >= max(latest - span, NO_TIME + 1)
            counts &= not knowledge or (made != NO_TIME and made <= latest)
            this = (event, made if created else 0, position)
            if counts and (best is None or this > best):
                best = this
        answer.append(-1 if best is None else best[2])
    return answer


@given(LABELS, ROWS, st.integers(1, 25), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_each_label_gets_the_greatest_row_it_could_have_known(
    labels: list[Any],
    rows: list[Any],
    chunk: int,
    limited: bool,
    created: bool,
    knowledge: bool,
    in_order: bool,
) -> None:
    knowledge &= created
    if in_order:  # as a log is, which is joined another way
        rows = sorted(rows, key=lambda row: row[1])
    codes, latest, spans = (
        np.array(column, dtype=np.int64) for column in zip(*labels, strict=True)
    )
    earliest = np.array(
        [max(int(t) - int(s), NO_TIME + 1) for t, s in zip(latest, spans, strict=True)]
    )
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    joined = AsOf(
        codes,
        latest,
        earliest if limited else None,
        (lambda positions: table[positions, 2]) if created else None,
    )
    for start in range(0, len(table), chunk):
        part = table[start : start + chunk]
        joined.add(
            part[:, 0], part[:, 1], np.arange(start, start + len(part)),
            part[:, 2] if knowledge else None,
        )  # fmt: skip
    assert joined.rows().tolist() == by_definition(
        labels, rows, limited=limited, created=created, knowledge=knowledge
    )


def test_more_labels_than_are_looked_up_at_once_get_the_row_a_search_of_their_key_finds() -> None:
    rng = np.random.default_rng(3)
    codes, latest = rng.integers(-1, 5, 20_000), rng.integers(-10, 900, 20_000)
    # Rows of no label's key among them, and times that many rows share.
    keys, event = rng.integers(-1, 6, 3000), np.sort(rng.integers(0, 800, 3000))
    joined = AsOf(codes, latest)
    for start in range(0, 3000, 1100):
        part = slice(start, start + 1100)
        joined.add(keys[part], event[part], np.arange(3000)[part])
    rows = [np.flatnonzero(keys == key) for key in range(5)]
    wanted = []
    for key, moment in zip(codes.tolist(), latest.tolist(), strict=True):
        at = bisect_right(event[rows[key]], moment) if key >= 0 else 0
        wanted.append(int(rows[key][at - 1]) if at else -1)
    assert joined.rows().tolist() == wanted
