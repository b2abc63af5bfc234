"""Item features in the model server: at every look what a read of all items would have given."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.data.vocabulary import GrowingVocabulary, Vocabulary
from recsys.errors import ServerError
from recsys.events.codec import encode
from recsys.events.log import Record
from recsys.events.schema import ImpressionEvent, InteractionEvent, LoggedEvent
from recsys.features import names
from recsys.features.batch import Float32s, Int64s
from recsys.features.hashes import MemoryHashes, Write
from recsys.features.item_feed import ItemFeed, StoredItems
from recsys.features.key_layout import EntityKeys
from recsys.features.next_change import NO_CHANGE_MS
from recsys.features.online import OnlineReader
from recsys.features.redis_hashes import connect
from recsys.features.stream import FeatureStream
from serving.model_repository.refresh import ITEMS_A_TURN, ItemRefresher
from serving.model_repository.turns import Turns
from tests.features.redis.redis_servers import Starter, launch_of, server_pid
from tests.features.test_every_function import everything
from tests.features.worlds import TOPICS, small_plan
from tests.inference.toy_model import TOY_DIMENSIONS, ToyModel

VIEW = everything(names.ITEM_ACTIVITY, ("item_id",))
PLAN = msgspec.structs.replace(
    small_plan(),
    views=tuple(VIEW if v.name == VIEW.name else v for v in small_plan().views),
)
ITEMS = Vocabulary(tuple(f"i{n}" for n in range(30)), ())
STARTS = 1_700_000_000_000
JUMPS = (0, 1, 999, 1000, 30_000, 5 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)


class Store:
    """A real Redis, a stream that writes to it, and a clock that moves when it is told."""

    def __init__(self, url: str, rng: np.random.Generator) -> None:
        self.url, self.rng = url, rng
        self.client: Any = connect(url)
        self.now_ms = STARTS
        self.reader = OnlineReader(PLAN, url)
        self.model = ToyModel(
            ITEMS.num_items,
            dimensions=replace(TOY_DIMENSIONS, num_item_features=len(VIEW.scalar_aggregates)),
        )
        self.ids = list(ITEMS.item_ids)
        self.vocabulary = GrowingVocabulary(ITEMS)
        self.refresher = ItemRefresher(
            self.model, self.vocabulary, lambda: ItemFeed(PLAN, url), turns=Turns(),
            interval_s=60.0, room=3, clock=lambda: self.now_ms,
        )  # fmt: skip
        self._stream = FeatureStream(PLAN, MemoryHashes(), TOPICS)
        self._offset = 0

    def key(self) -> bytes:
        return EntityKeys(VIEW, PLAN.project).of(str(self.rng.choice(self.ids)))

    def write(self, count: int) -> None:
        """Have the stream take in events of now and of before."""
        log: list[tuple[Record, LoggedEvent]] = []
        for _ in range(count):
            self._offset += 1
            known = {
                "event_id": f"e{self._offset}", "user_id": "u",
                "event_time_ms": self.now_ms - int(self.rng.choice([0, 0, 1500, HOUR_MS])),
            }  # fmt: skip
            items = [str(i) for i in self.rng.choice([*self.ids, "other"], 3)]
            event: LoggedEvent = ImpressionEvent(request_id="r", items=items, **known)
            if self.rng.random() < 0.7:
                event = InteractionEvent(
                    item_id=items[0], value=float(self.rng.normal(5, 50)),
                    type=str(self.rng.choice(["click", "purchase"])), **known,
                )  # fmt: skip
            topic, key = TOPICS.route(event)
            record = Record(topic, 0, self._offset, key, encode(event), self.now_ms)
            log.append((record, event))
        self._send(self._stream.apply(log)[0])

    def _send(self, writes: Sequence[Write]) -> None:
        for write in writes:
            if write.remove:
                self.client.delete(write.key)
            else:
                self.client.hset(write.key, mapping=dict(write.fields))

    def check(self) -> None:
        """The model has what a read of all items gives at the moment it says."""
        assert self.model.items.activity_as_of_ms == self.now_ms
        wanted = self.reader.read_items(self.ids, now_ms=self.now_ms).activity
        np.testing.assert_array_equal(self.model.items.activity[1:].numpy(), wanted)

    def change(self) -> None:
        """Do one of many things that happen."""
        what = self.rng.choice(
            ["write", "time", "border", "delete", "expire", "flush", "rename", "lose"],
            p=[0.45, 0.2, 0.1, 0.05, 0.08, 0.02, 0.05, 0.05],
        )
        if what == "write":
            self.write(int(self.rng.integers(1, 12)))
        elif what == "time":
            self.now_ms += int(self.rng.choice(JUMPS))
        elif what == "border":
            slide = int(self.rng.choice([a.slide_ms for a in VIEW.aggregates]))
            self.now_ms = (self.now_ms // slide + 1) * slide + int(self.rng.integers(-1, 2))
        elif what == "delete":
            self.client.delete(self.key())
        elif what == "expire":
            self.client.pexpire(self.key(), 15)
            self.refresher.refresh()
            time.sleep(0.02)  # then it is gone, whether the server has deleted it or not
            self.now_ms += 20
        elif what == "flush":
            self.client.flushdb()
        elif what == "rename":
            key = self.key()
            if self.client.exists(key):
                self.client.rename(key, self.key())
        else:
            self.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            self.write(3)
            self.refresher.refresh()  # it may notice only now, or be reading all again

    def close(self) -> None:
        self.refresher.stop()
        self.reader.close()
        self.client.close()


@pytest.fixture
def url(own_server: Starter, tmp_path: Path) -> str:
    launch = launch_of(tmp_path)
    own_server(launch)
    return launch.address


@pytest.mark.servers
def test_at_every_look_all_items_are_as_a_full_read_gives_them(url: str) -> None:
    for seed in range(4):
        with contextlib.closing(Store(url, np.random.default_rng(seed))) as store:
            store.client.flushdb()
            store.write(40)
            assert store.refresher.refresh()
            store.check()
            moved = 0
            for _ in range(60):
                held = store.model.items.activity.clone()
                for _ in range(int(store.rng.integers(1, 4))):
                    store.change()
                assert store.refresher.refresh()
                store.check()
                moved += not torch.equal(held, store.model.items.activity)
            store.now_ms -= 3 * HOUR_MS  # a clock that is set back
            assert store.refresher.refresh()
            store.check()
            assert moved > 10


@pytest.mark.servers
def test_nothing_is_read_while_nothing_changes(url: str) -> None:
    with contextlib.closing(Store(url, np.random.default_rng(1))) as store:
        store.write(30)
        assert store.refresher.refresh()

        def reads() -> int:
            return int(store.client.info("commandstats")["cmdstat_hget"]["calls"])

        before = reads()
        for _ in range(5):
            assert store.refresher.refresh()
        assert reads() == before
        store.write(1)
        assert store.refresher.refresh()
        assert before < reads() <= before + 3
        store.check()


@pytest.mark.servers
def test_what_time_changes_is_known_before_it_is_due(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(Store(url, np.random.default_rng(4))) as store:
        store.now_ms = STARTS // HOUR_MS * HOUR_MS + 50 * MINUTE_MS + 100
        store.write(60)
        assert store.refresher.refresh()
        held = store.model.items.activity.clone()

        def reads() -> int:
            return int(store.client.info("commandstats")["cmdstat_hget"]["calls"])

        store.now_ms += 20_000
        for _ in range(5):  # short windows fall; then nothing does, and what comes is read ahead
            assert store.refresher.refresh()
        before = reads()
        for _ in range(3):
            assert store.refresher.refresh()
        assert reads() == before
        store.now_ms = (store.now_ms // (5 * MINUTE_MS) + 1) * 5 * MINUTE_MS
        monkeypatch.setattr("serving.model_repository.refresh._AHEAD_A_LOOK", 0)
        assert store.refresher.refresh()
        assert reads() == before
        store.check()
        assert not torch.equal(held, store.model.items.activity)


@pytest.mark.servers
def test_a_store_that_was_killed_is_read_anew_when_it_is_back(
    own_server: Starter, tmp_path: Path
) -> None:
    launch = launch_of(tmp_path)
    keeper = own_server(launch)
    with contextlib.closing(Store(launch.address, np.random.default_rng(2))) as store:
        store.write(50)
        assert store.refresher.refresh()
        store.check()
        held = store.model.items.activity.clone()
        as_of_ms = store.now_ms
        os.kill(server_pid(keeper), signal.SIGKILL)
        keeper.wait(10)
        store.now_ms += 5_000
        assert not store.refresher.refresh()
        assert store.model.items.activity_as_of_ms == as_of_ms  # so the age grows
        assert torch.equal(store.model.items.activity, held)
        own_server(launch)
        store.client.close()
        store.client.flushdb()  # it came back with nothing
        store.write(5)
        assert store.refresher.refresh()
        store.check()


@pytest.mark.servers
def test_items_added_at_run_time_are_followed(url: str) -> None:
    with contextlib.closing(Store(url, np.random.default_rng(3))) as store:
        assert store.refresher.refresh()
        model = store.model
        grown = torch.zeros(3, model.items.activity.shape[1])
        model.items.activity = torch.cat([model.items.activity, grown])
        store.ids += ["new1", "new2", "other"]
        for item_id in ("new1", "new2", "other"):
            store.vocabulary.add(item_id)
        store.write(60)
        assert store.refresher.refresh()
        store.check()
        assert model.items.activity[-3:].any(dim=1).all()
        store.write(60)
        store.now_ms += HOUR_MS
        assert store.refresher.refresh()
        store.check()


class MemoryItems:
    """Item ``i`` (from 0) has the features ``i`` and ``now_ms``."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.failing = False
        self.closed = False

    def changed(self) -> set[bytes] | None:
        return set()

    def ids_of(self, keys: object) -> list[str]:
        raise AssertionError(keys)

    def read(self, item_ids: Sequence[str]) -> StoredItems:
        if self.failing:
            raise ServerError("the store is away")
        self.sizes.append(len(item_ids))
        return StoredItems([item_id.encode() for item_id in item_ids], [])

    def activity(self, stored: StoredItems, at_ms: Int64s) -> tuple[Float32s, Int64s]:
        rows = np.array(list(map(int, map(bytes.decode, stored.states))), dtype=np.float32)  # type: ignore[arg-type]
        until = np.full(len(rows), NO_CHANGE_MS, dtype=np.int64)
        return np.stack([rows, at_ms.astype(np.float32)], axis=1), until

    def close(self) -> None:
        self.closed = True


def numbered(count: int) -> Vocabulary:
    return Vocabulary(tuple(map(str, range(count))), ())


def test_all_items_are_read_in_turns_as_of_one_moment() -> None:
    num_items = 2 * ITEMS_A_TURN + 7
    items, model = MemoryItems(), ToyModel(num_items)
    refresher = ItemRefresher(
        model, numbered(num_items), lambda: items, turns=Turns(), interval_s=60.0,
        clock=lambda: 5_000,
    )  # fmt: skip
    assert refresher.refresh()
    assert items.sizes == [200, 200, 7]
    assert model.items.activity_as_of_ms == 5_000
    assert model.items.activity[0].tolist() == [0.0, 0.0]
    assert model.items.activity[1:, 0].tolist() == list(range(num_items))
    assert set(model.items.activity[1:, 1].tolist()) == {5_000.0}


def test_a_first_read_that_takes_too_long_goes_on_beside_requests() -> None:
    num_items = 25_000
    items, model = MemoryItems(), ToyModel(num_items)
    refresher = ItemRefresher(
        model, numbered(num_items), lambda: items, turns=Turns(), interval_s=0.01
    )
    assert not refresher.read_before_requests(0.0)
    assert sum(items.sizes) == 10_000
    assert model.items.activity_as_of_ms == 0  # not all of it is: the age says so
    assert refresher.refresh()
    assert sum(items.sizes) == num_items
    assert model.items.activity_as_of_ms > 0


def test_a_store_that_is_away_leaves_the_last_values_and_is_connected_anew() -> None:
    first, second = MemoryItems(), MemoryItems()
    connections: Iterator[MemoryItems] = iter([first, second])
    now = iter([1_000, 2_000, 3_000])
    model = ToyModel(3)
    refresher = ItemRefresher(
        model, numbered(3), lambda: next(connections), turns=Turns(), interval_s=60.0,
        clock=lambda: next(now),
    )  # fmt: skip
    assert refresher.refresh()
    first.failing = True
    refresher._due.mark_all()
    assert not refresher.refresh()
    assert first.closed
    assert model.items.activity_as_of_ms == 1_000
    assert refresher.refresh()
    assert model.items.activity_as_of_ms == 3_000


def test_requests_without_a_pause_leave_room_for_the_background() -> None:
    turns = Turns()
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            with turns.turn():
                time.sleep(0.001)

    requests = threading.Thread(target=serve)
    requests.start()
    begin = time.monotonic()
    for _ in range(20):
        with turns.turn():
            pass
    took_s = time.monotonic() - begin
    stopped.set()
    requests.join()
    assert took_s < 5.0  # each turn waits for about one request, not for ever
