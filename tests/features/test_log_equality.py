"""What a worker left of a generated log, restarts and forgotten users included: its store, its
event log computed anew, and the definitions agree to the bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS
from recsys.data.vocabulary import Vocabulary
from recsys.events import event_log
from recsys.events.log_erasure import Until, erase_user
from recsys.events.log_verify import verify
from recsys.events.schema import ForgetEvent, UserEvent
from recsys.events.sink import SinkConfig
from recsys.features import backfill as backfills
from recsys.features import history_updates, log_rows, log_shuffle, one_history, recency, worker
from recsys.features.hashes import MemoryHashes
from recsys.features.history import UserHistory
from recsys.features.key_layout import is_keyed_by_user
from recsys.features.log_rows import LogRows, read_rows
from recsys.features.names import USER_HISTORY, USER_PROFILE, token_hashes, tokens_of
from recsys.features.online import MemoryOnlineReader
from recsys.features.plan import Plan
from recsys.features.progress import progress_key
from recsys.features.view import View
from recsys.features.view_history import ViewHistory
from recsys.features.worker import WorkerConfig
from tests.features import oracle
from tests.features.generated_logs import (
    CATEGORIES,
    ITEMS,
    SPANS,
    Log,
    Row,
    effective_ms,
    erased,
    logs,
    of_examples,
    rows_by_the_book,
    told,
    unforgotten,
)
from tests.features.oracle import Seen, history_at, values_of
from tests.features.test_any_view import ALL_KEYS, plan_of
from tests.features.test_worker import House
from tests.features.worlds import TOPICS, assert_equal_users, unversioned

TTL_MS = {USER_PROFILE: 2 * HOUR_MS, USER_HISTORY: DAY_MS}


def plan_that_expires() -> Plan:
    plan = plan_of(("interaction", "feedback__like"))
    views = (msgspec.structs.replace(v, ttl_ms=TTL_MS.get(v.name, v.ttl_ms)) for v in plan.views)
    return msgspec.structs.replace(plan, views=tuple(views))


HORIZON = 2
"""Instead of 10,000."""
PLAN = plan_that_expires()
VIEWS = PLAN.views[-len(ALL_KEYS) :]
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files cost no waiting for a disk."""
IDS = {"user_id": "xyz", "item_id": "abc", "category": CATEGORIES}


def house_of(folder: Path, log: Log, rng: np.random.Generator) -> House:
    """Send the log to a worker, in pieces; it is killed or ended after each of them."""
    now = [0]
    house = House(folder, PLAN, lambda: now[0])
    house.stream = {"horizon": HORIZON}
    at = 0
    while at < len(log):
        end = at + int(rng.integers(1, 9))
        for record, event in log[at:end]:
            now[0] = record.timestamp_ms
            house.send(event)
        house.config = WorkerConfig(poll_timeout_ms=0, max_records=int(rng.integers(1, 9)))
        house.sink_config = SinkConfig(max_rows=int(rng.integers(1, 20)))
        if rng.random() < 0.3:
            kill(house, int(rng.integers(0, 4)))
        else:
            house.run()
        at = end
    house.run()
    return house


def computed_after_erasure(event_log_dir: Path, log: Log, folder: Path) -> MemoryHashes:
    """Erase everyone who was forgotten, until then, and compute anew."""
    for record, event in log:
        if isinstance(event, ForgetEvent):
            until = Until(*record[:3], record.timestamp_ms)
            erase_user(event_log_dir, record.topic, event.user_id, until)
    report = verify(event_log_dir)
    assert (report.is_sound, report.num_rows) == (True, len(erased(log))), report.problems
    store = MemoryHashes()
    backfills.backfill(event_log_dir, PLAN, store, store, folder)
    return store


def kill(house: House, num_steps: int) -> None:
    """Begin a worker that ends after some steps and stores nothing of what it holds."""
    run = house.begin()
    run.start()
    for _ in range(num_steps):
        run.step()
    for sink in house.sinks._sinks.values():
        if sink is not None:
            sink.abandon()


def features_of(store: MemoryHashes) -> dict[bytes, dict[bytes, bytes]]:
    content = unversioned(store.content)
    content.pop(progress_key("test"), None)
    return content


def by_user(content: dict[bytes, dict[bytes, bytes]]) -> dict[bytes, dict[bytes, bytes]]:
    return {key: own for key, own in content.items() if is_keyed_by_user(key)}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Have borders in small logs: of what is told twice, of histories, of a backfill's parts."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (worker, log_shuffle, log_rows):
            patch.setattr(module, "HORIZON", HORIZON)
        for module in (recency, oracle, history_updates, one_history):
            patch.setattr(module, "HISTORY_EVENTS", 5)
        for module in (recency, oracle, one_history):
            patch.setattr(module, "HISTORY_LENGTH", 1)
        patch.setattr(history_updates, "_CUT_SHIFT", np.uint64(62))  # one in four
        patch.setattr(log_shuffle, "BATCH_EVENTS", 7)
        patch.setattr(backfills, "PART_EVENTS", 7)
        yield


@of_examples()
@given(
    logs(num_partitions=2, forgets=True), st.integers(0, 2**32 - 1), st.sampled_from(SPANS)
)  # fmt: skip
def test_store_backfill_offline_and_definition_agree(log: Log, seed: int, later_ms: int) -> None:
    rng = np.random.default_rng(seed)
    kept = unforgotten(log, HORIZON)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        folder = Path(name)
        house = house_of(folder / "log", log, rng)
        report = verify(house.folder)
        assert (report.is_sound, report.num_rows) == (True, len(log)), report.problems
        anew = MemoryHashes()
        backfills.backfill(house.folder, PLAN, anew, anew, folder / "work")
        rows = read_rows(event_log.scan(house.folder, [TOPICS.items, TOPICS.behaviour]))
        after = computed_after_erasure(house.folder, log, folder / "again")
    # To the byte: what is computed anew, and of users what the worker left. Of items the worker
    # leaves what forgotten users did to them, without a name.
    assert features_of(anew) == features_of(told([PLAN], kept, seed, horizon=0))
    assert by_user(features_of(house.store)) == by_user(features_of(anew))
    # Of what is erased the log knows nothing any more: what came twice then came once.
    left = unforgotten(erased(log), HORIZON)
    assert features_of(after) == features_of(told([PLAN], left, seed, horizon=0))
    t = max(record.timestamp_ms for record, _ in log) + later_ms
    book, book_of_all = rows_by_the_book(kept, 0), rows_by_the_book(log, HORIZON)
    for view in VIEWS:
        entities = list(product(*(IDS[key] for key in view.join_keys)))
        columns = {k: [ids[n] for ids in entities] for n, k in enumerate(view.join_keys)}
        computed, live = (
            MemoryOnlineReader(PLAN, store).read_view(view.name, columns, now_ms=t).values
            for store in (anew, house.store)
        )
        offline = ViewHistory(rows, view).at(columns, np.full(len(entities), t))
        np.testing.assert_array_equal(offline, computed, strict=True)
        for n in rng.choice(len(entities), min(len(entities), 4), replace=False).tolist():
            wanted = by_the_book(view, book, entities[n], t)
            np.testing.assert_array_equal(computed[n], wanted)
            if "user_id" not in view.join_keys:
                wanted = by_the_book(view, book_of_all, entities[n], t)
            np.testing.assert_array_equal(live[n], wanted)
    assert_users(kept, [anew, house.store], rows, t)


def by_the_book(view: View, book: list[Row], ids: tuple[str, ...], t: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values_of(view, seen_of(dict(zip(view.join_keys, ids, strict=True)), book), t))


def seen_of(keys: dict[str, str], book: list[Row]) -> list[Seen]:
    """Give what counts for an entity; nothing does for no category."""
    return [r.seen for r in book if "" not in keys.values() and keys.items() <= r.keys.items()]


def assert_users(kept: Log, stores: list[MemoryHashes], rows: LogRows, t: int) -> None:
    """Profiles and histories, live and computed anew, are what training reads and what was said."""
    users = list(IDS["user_id"])
    vocabulary = Vocabulary(tuple(ITEMS), CATEGORIES)
    offline = UserHistory(rows, PLAN, vocabulary).features_at(users, np.full(len(users), t))
    for store in stores:
        reader = MemoryOnlineReader(PLAN, store)
        assert_equal_users(reader.read_users(users, vocabulary=vocabulary, now_ms=t), offline)
    book = rows_by_the_book(kept, 0)
    for n, user in enumerate(users):
        acted = [e for e in seen_of({"user_id": user}, book) if e.kind == "interaction"]
        is_fresh = any(t - e.time_ms <= TTL_MS[USER_HISTORY] for e in acted)
        wanted = history_at(acted if is_fresh else [], t)
        found = zip(
            (ITEMS[index - 1] for index in offline.history_index.row(n)),
            offline.history_count.row(n).tolist(),
            offline.history_last_ms.row(n).tolist(),
            strict=True,
        )
        assert list(found) == wanted
        profiles = [
            (effective_ms(r, e), r.offset, e.attributes)
            for r, e in kept
            if isinstance(e, UserEvent) and e.user_id == user
        ]
        at, _, said = max(profiles, key=lambda one: one[:2], default=(t, 0, {}))
        tokens = tokens_of(said) if t - at <= TTL_MS[USER_PROFILE] else []
        assert offline.token_hashes.row(n).tolist() == token_hashes(tokens).tolist()
