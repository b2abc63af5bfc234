"""Every function and window of ``docs/aggregations.md``, from the log to all who read it.

The log is replayed as it was received. After each record the online store is read at moments from
then on, at event times, a millisecond beside them, at the borders of tiles and of the TTL; and the
offline reader is asked for the same moments, knowing what the log had received. Both must give what
the definitions say, to the bit.
"""

from __future__ import annotations

from itertools import groupby, product

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.events.event_columns import to_frame
from recsys.features.aggregation import Aggregate
from recsys.features.finalised import ViewValues
from recsys.features.hashes import MemoryHashes
from recsys.features.key_layout import EntityKeys
from recsys.features.log_rows import read_rows
from recsys.features.online import MemoryOnlineReader
from recsys.features.plan import Plan
from recsys.features.stream import FeatureStream
from recsys.features.time_layout import decode_timestamp
from recsys.features.value_layout import decode_value
from recsys.features.view import View
from recsys.features.view_history import ViewHistory
from tests.features.generated_logs import Log, Row, logs, of_examples, rows_by_the_book
from tests.features.oracle import list_at, values_of
from tests.features.worlds import TOPICS, feature, small_plan

TTL_MS = 6 * HOUR_MS
IDS = {"user_id": "xyz", "item_id": "abc", "category": ("tea", "mugs")}
FUNCTIONS = (
    ("interaction", "count"), ("impression", "sum"), ("interaction", "mean"),
    ("interaction", "min"), ("interaction__click", "max"), ("interaction", "first"),
    ("interaction", "last"), ("interaction", "decayed_count(20m)"),
    ("interaction__purchase", "decayed_sum(2s)"), ("interaction", "session_count(1s)"),
    ("interaction", "session_sum(30m)"), ("interaction.item_id", "count_distinct"),
    ("interaction__click.category", "count_distinct"), ("impression", "count_distinct"),
    ("interaction.item_id", "last_n(3)"), ("impression.category", "last_n(2)"),
    ("interaction", "last_n(5)"),
)  # fmt: skip
WINDOWS = ((HOUR_MS, 5 * MINUTE_MS), (DAY_MS, DAY_MS), (3000, 1000))


def everything(name: str, keys: tuple[str, ...]) -> View:
    """Give a view of every function over sliding and tumbling windows, that also expires."""
    declared = [
        Aggregate(name=f"{c} {f} {w}", column=c, function=f, window_ms=w, slide_ms=s)
        for (c, f), (w, s) in product(FUNCTIONS, WINDOWS)
    ]
    share = f"ratio(interaction count {HOUR_MS}, interaction count {DAY_MS})"
    declared.append(
        Aggregate(
            name="share", column="interaction", function=share, window_ms=HOUR_MS, slide_ms=HOUR_MS
        )
    )
    types = {None: "float32_list", "item_id": "int64_list", "category": "int64_list"}
    features = tuple(
        feature(name, a.name, types[a.field] if a.call.name == "last_n" else "float32")  # type: ignore[arg-type]
        for a in declared
    )
    view = View(
        name=name, join_keys=keys, features=features, ttl_ms=TTL_MS, aggregates=tuple(declared)
    )
    view.check()
    assert view.expires
    return view


VIEWS = (
    everything("all_of_user", ("user_id",)),
    everything("all_of_item", ("item_id",)),
    everything("all_of_pair", ("category", "user_id")),
)
PLAN: Plan = msgspec.structs.replace(small_plan(), views=small_plan().views + VIEWS)
Question = tuple[int, int, tuple[str, ...]]
"""Moment, what was received by then, and the entity."""


def moments(log: Log, received: int, until: int, view: View) -> list[int]:
    """Give moments in ``[received, until)`` at which something changes, and those beside them."""
    at = {received, until - 1}
    for record, event in log:
        e = min(event.event_time_ms, record.timestamp_ms)
        for edge in (e, e + 1000, e + view.ttl_ms, *(e + a.window_ms for a in view.aggregates)):
            at |= {edge - 1, edge, edge + 1}
        for slide in {a.slide_ms for a in view.aggregates}:
            border = (e // slide + 1) * slide
            at |= {border - 1, border, border + 1}
    return sorted(t for t in at if received <= t < until)


def by_the_book(view: View, book: list[Row], question: Question) -> tuple[list[float], list[list]]:  # type: ignore[type-arg]
    t, known_by, ids = question
    keys = dict(zip(view.join_keys, ids, strict=True))
    mine = [r.seen for r in book if keys.items() <= r.keys.items() and r.known_ms <= known_by]
    if not any(t - e.time_ms <= view.ttl_ms for e in mine):
        mine = []
    return values_of(view, mine, t), [list_at(a, mine, t) for a in view.list_aggregates]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@of_examples()
@given(logs(), st.integers(0, 2**32 - 1))
def test_offline_is_at_every_time_what_online_was(view: View, log: Log, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = MemoryHashes()
    stream, reader = FeatureStream(PLAN, hashes, TOPICS), MemoryOnlineReader(PLAN, hashes)
    entities = list(product(*(IDS[key] for key in view.join_keys)))
    columns = {k: [ids[n] for ids in entities] for n, k in enumerate(view.join_keys)}
    questions: list[Question] = []
    online: list[ViewValues] = []
    received = [list(some) for _, some in groupby(log, lambda one: one[0].timestamp_ms)]
    ends = [some[0][0].timestamp_ms for some in received[1:]] + [
        log[-1][0].timestamp_ms + 2 * DAY_MS
    ]
    for some, until in zip(received, ends, strict=True):
        assert hashes.write(stream.apply(some)[0]) == []
        if rng.random() < 0.3:
            stream.forget()
        now = some[0][0].timestamp_ms
        asked = moments(log, now, until, view)
        for t in sorted(rng.choice(asked, min(len(asked), 3), replace=False).tolist()):
            online.append(reader.read_view(view.name, columns, now_ms=t))
            questions += [(t, now, ids) for ids in entities]
    history = ViewHistory(read_rows(to_frame(log)), view)
    keys = {k: [q[2][n] for q in questions] for n, k in enumerate(view.join_keys)}
    t, known = (np.array([q[n] for q in questions]) for n in (0, 1))
    offline = history.at(keys, t, known_by_ms=known)
    np.testing.assert_array_equal(offline, np.concatenate([o.values for o in online]))
    lists = history.lists_at(keys, t, known_by_ms=known)
    book = rows_by_the_book(log)
    for n in rng.choice(len(questions), min(len(questions), 12), replace=False).tolist():
        values, _ = by_the_book(view, book, questions[n])
        np.testing.assert_array_equal(offline[n], np.array(values, np.float32), str(questions[n]))
    for place, aggregate in enumerate(view.list_aggregates):
        rows = lists[aggregate.name]
        found = [row for o in online for row in _rows(o, aggregate)]
        assert [rows.row(n).tolist() for n in range(len(rows))] == found
        for n in range(0, len(questions), 7):
            assert found[n] == by_the_book(view, book, questions[n])[1][place]
    assert_feast_fields(view, hashes, reader, columns)


def _rows(values: ViewValues, aggregate: Aggregate) -> list[list[object]]:
    found = values.lists[aggregate.name]
    return [found.row(n).tolist() for n in range(len(found))]


def assert_feast_fields(
    view: View, hashes: MemoryHashes, reader: MemoryOnlineReader, columns: dict[str, list[str]]
) -> None:
    """Feast's fields hold what the view was at the entity's newest event."""
    for ids in zip(*columns.values(), strict=True):
        stored = hashes.content.get(EntityKeys(view, PLAN.project).of(*ids), {})
        if view.timestamp_field not in stored:
            continue
        at = decode_timestamp(stored[view.timestamp_field])
        keys = {k: [one] for k, one in zip(columns, ids, strict=True)}
        then = reader.read_view(view.name, keys, now_ms=at)
        wanted = dict(zip(then.names, then.values[0].tolist(), strict=True))
        wanted |= {name: rows.row(0).tolist() for name, rows in then.lists.items()}
        found = {f.name: decode_value(stored[f.field_bytes], f.type) for f in view.features}
        assert found == wanted


def test_only_views_that_want_identities_cost_them() -> None:
    assert VIEWS[0].identity_fields == {"item_id", "category"}
    assert small_plan().view("user_activity").identity_fields == frozenset()
