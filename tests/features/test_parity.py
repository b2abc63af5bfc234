"""One meaning of time: what the stream wrote and the reader finalised equals the offline answer."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.events.event_columns import to_frame
from recsys.events.log import Record
from recsys.events.schema import Event
from recsys.features.hashes import MemoryHashes
from recsys.features.history import ItemHistory, UserHistory
from recsys.features.log_rows import read_rows
from recsys.features.online import MemoryOnlineReader
from recsys.features.plan import Plan
from recsys.features.stream import FeatureStream
from tests.features.worlds import (
    TOPICS,
    assert_equal_users,
    in_log,
    random_events,
    small_plan,
    unversioned,
    vocabulary,
)

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
USERS = [*(f"u{k}" for k in range(5)), "nobody"]
ITEMS = [*(f"i{k}" for k in range(12)), "nothing"]


def stream_into(
    hashes: MemoryHashes, plan: Plan, log: list[tuple[Record, Event]], rng: np.random.Generator
) -> None:
    """Apply the log in batches of chance, starting anew now and then."""
    stream = FeatureStream(plan, hashes, TOPICS)
    at = 0
    while at < len(log):
        end = at + int(rng.integers(1, 40))
        writes, _ = stream.apply(log[at:end])
        hashes.write(writes)
        at = end
        if rng.random() < 0.2:
            stream.forget()


@pytest.mark.parametrize("seed", range(8))
def test_stream_and_offline_agree_at_any_moment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan, vocab = small_plan(), vocabulary()
    span = [40 * MINUTE_MS, 3 * HOUR_MS, 2 * DAY_MS, 12 * DAY_MS][seed % 4]
    events = random_events(rng, start_ms=T0, span_ms=span, num_events=250, late_ms=span // 20)
    log = in_log(events, rng=rng)
    rows = read_rows(to_frame(log))
    users, items = UserHistory(rows, plan, vocab), ItemHistory(rows, plan, vocab)
    for t in sorted(rng.integers(T0 - 2, T0 + 2 * span, 6).tolist()):
        # What happened by then, in the order of arrival. Item events are read first.
        known = [(r, e) for r, e in log if min(e.event_time_ms, r.timestamp_ms) <= t]
        hashes = MemoryHashes()
        stream_into(hashes, plan, known, rng)
        reader = MemoryOnlineReader(plan, hashes)
        online = reader.read_users(USERS, vocabulary=vocab, now_ms=t)
        assert_equal_users(online, users.features_at(USERS, np.full(len(USERS), t)))
        activity = reader.read_items(ITEMS, now_ms=t)
        offline = items.activity_at(ITEMS, t)
        np.testing.assert_array_equal(activity.known, offline.known)
        np.testing.assert_array_equal(activity.activity, offline.activity)
        index = vocab.indexes(ITEMS)
        pairs = items.activity_of_pairs(index, np.full(len(ITEMS), t))
        np.testing.assert_array_equal(pairs[index > 0], offline.activity[index > 0])


def test_batches_and_restarts_leave_the_same_bytes() -> None:
    rng = np.random.default_rng(3)
    plan = small_plan()
    log = in_log(random_events(rng, start_ms=T0, span_ms=DAY_MS, num_events=300), rng=rng)
    stores = []
    for seed in range(4):
        hashes = MemoryHashes()
        stream_into(hashes, plan, log, np.random.default_rng(seed))
        stores.append(unversioned(hashes.content))
    assert all(store == stores[0] for store in stores)


def test_a_batch_half_written_and_read_again_leaves_the_same_bytes() -> None:
    rng = np.random.default_rng(4)
    plan = small_plan()
    log = in_log(random_events(rng, start_ms=T0, span_ms=DAY_MS, num_events=200), rng=rng)
    whole = MemoryHashes()
    whole.write(FeatureStream(plan, whole, TOPICS).apply(log)[0])
    torn = MemoryHashes()
    committed = 0
    while committed < len(log):
        # A new process notes what lies before the committed position, then applies from there.
        stream = FeatureStream(plan, torn, TOPICS)
        for record, event in log[:committed]:
            stream.note(record, event)
        batch = log[committed : committed + 30]
        writes, _ = stream.apply(batch)
        if rng.random() < 0.6:  # killed in the middle of the writes
            order = rng.permutation(len(writes))[: int(rng.integers(0, len(writes) + 1))]
            torn.write([writes[k] for k in order])
        else:
            torn.write(writes)
            committed += 30
    assert unversioned(torn.content) == unversioned(whole.content)
