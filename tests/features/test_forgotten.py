"""A forgotten user is gone from the online store, from replays and from what the log gives."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import pytest

from recsys.events import event_log
from recsys.events.log_erasure import erase_user
from recsys.events.schema import ForgetEvent, InteractionEvent, ItemEvent
from recsys.features.backfill import backfill
from recsys.features.entities import CATEGORIES_FIELD
from recsys.features.forgotten import without_forgotten
from recsys.features.hashes import VERSION_FIELD, MemoryHashes
from recsys.features.key_layout import ending_of_user, is_keyed_by_user
from recsys.features.log_rows import read_rows
from recsys.features.progress import progress_key
from recsys.features.redis_hashes import RedisKeys, connect
from tests.features.test_worker import PLAN, T0, House
from tests.features.worlds import TOPICS

_NOT_FEATURES = (VERSION_FIELD, CATEGORIES_FIELD)  # the latter says when the log received it
Content = dict[bytes, dict[bytes, bytes]]


def click(n: int, user: str = "ada") -> InteractionEvent:
    return InteractionEvent(
        event_id=f"{user}{n}", event_time_ms=T0 + n, user_id=user, item_id="i1", type="click"
    )


def forget(n: int, user: str = "ada") -> ForgetEvent:
    return ForgetEvent(event_id=f"f{n}", event_time_ms=T0 + n, user_id=user)


ITEM = ItemEvent(event_id="i", event_time_ms=T0 - 9, item_id="i1", category="tea")


def house_with_item(folder: Path) -> House:
    house = House(folder)
    house.send(ITEM)
    time.sleep(0.002)  # a category counts for what the log receives after it
    return house


def features(store: MemoryHashes) -> Content:
    """Give all hashes but the progress, without their versions."""
    return {
        key: {name: value for name, value in own.items() if name not in _NOT_FEATURES}
        for key, own in store.content.items()
        if key != progress_key("test")
    }


def of_user(content: Content, user: str) -> Content:
    ending = ending_of_user(user, PLAN.project)
    mine = (key for key in content if key.endswith(ending) and is_keyed_by_user(key))
    return {key: content[key] for key in mine}


def test_all_hashes_of_the_user_go_and_nobody_elses(tmp_path: Path) -> None:
    house = house_with_item(tmp_path)
    house.send(click(0), click(1), click(2, "bob"), click(3, "xada"))
    house.run()
    before = features(house.store)
    assert len(of_user(before, "ada")) >= 2, "the user's own hash and one with a category"
    house.send(forget(4))
    house.run()
    after = features(house.store)
    assert after == {key: own for key, own in before.items() if key not in of_user(before, "ada")}
    letters = house.log.reader(topics=[TOPICS.dead_letters], group="l")
    assert letters.poll(timeout_ms=0, max_records=10) == []


def test_an_item_of_the_same_id_stays(tmp_path: Path) -> None:
    house = house_with_item(tmp_path)
    house.send(click(0, "i1"), click(1, "bob"))
    house.run()
    before = features(house.store)
    house.send(forget(2, "i1"))
    house.run()
    gone = before.keys() - features(house.store).keys()
    assert gone == of_user(before, "i1").keys()


@pytest.mark.parametrize("cut", range(7))
def test_wherever_batches_are_cut_only_what_came_after_counts(tmp_path: Path, cut: int) -> None:
    events = [click(0), click(1, "bob"), click(2), forget(3), click(4), click(5, "bob")]
    parts, whole = house_with_item(tmp_path / "parts"), house_with_item(tmp_path / "whole")
    parts.send(*events[:cut])
    parts.run()
    parts.send(*events[cut:])
    parts.run()
    whole.send(*events)
    whole.run()
    assert features(parts.store) == features(whole.store)
    assert of_user(features(whole.store), "ada")
    only_new = house_with_item(tmp_path / "new")
    only_new.send(click(4))
    only_new.run()
    assert counts(whole, "ada") == counts(only_new, "ada") == 1.0


def counts(house: House, user: str) -> float:
    from recsys.features.online import MemoryOnlineReader
    from tests.features.worlds import vocabulary

    reader = MemoryOnlineReader(PLAN, house.store)
    found = reader.read_users([user], vocabulary=vocabulary(), now_ms=T0 + 10_000)
    return float(found.history_count.values.sum())


def test_applied_again_from_before_it_ends_in_the_same_state(tmp_path: Path) -> None:
    house = house_with_item(tmp_path)
    house.send(click(0), click(1, "bob"), forget(2))
    house.run()
    house.send(click(3))
    house.run()
    once = features(house.store)
    progress = house.store.content[progress_key("test")]
    behind = [name for name in progress if TOPICS.behaviour.encode() in name]
    assert behind
    for name in behind:
        del progress[name]  # as if killed before it was raised
    house.run()
    assert features(house.store) == once


def test_said_twice_it_forgets_what_came_between(tmp_path: Path) -> None:
    house = house_with_item(tmp_path)
    house.send(click(0), forget(1), click(2), forget(1), click(3, "bob"))  # sent again: the same id
    house.run()
    assert not of_user(features(house.store), "ada")
    log = event_log.scan(tmp_path, [TOPICS.items, TOPICS.behaviour])
    assert read_rows(log).user_ids.to_list() == ["bob"]
    store = MemoryHashes()
    backfill(tmp_path, PLAN, store, store, tmp_path / "work")
    assert not of_user(features(store), "ada")


def test_the_log_gives_nothing_of_the_user_before_and_after_its_rows_are_erased(
    tmp_path: Path,
) -> None:
    house = house_with_item(tmp_path)
    house.send(click(0), click(1, "bob"), click(2), forget(3), click(4))
    house.run()
    for erased in (False, True):
        if erased:
            # the record of the forgetting stays, and what came after goes with an erasure
            assert erase_user(tmp_path, TOPICS.behaviour, "ada").num_rows == 3
        log = event_log.scan(tmp_path, [TOPICS.items, TOPICS.behaviour])
        assert read_rows(log).user_ids.to_list() == (["bob"] if erased else ["ada", "bob"])
        assert len(read_rows(log).user) == (1 if erased else 2)
        store = MemoryHashes()
        backfill(tmp_path, PLAN, store, store, tmp_path / f"work{erased}")
        if erased:
            assert not of_user(features(store), "ada")
        else:
            assert of_user(features(store), "ada") == of_user(features(house.store), "ada")
        assert of_user(features(store), "bob") == of_user(features(house.store), "bob")


def test_frames_without_positions_go_by_the_order_of_rows() -> None:
    frame = pl.DataFrame(
        {
            "kind": ["interaction", "interaction", "forget", "interaction"],
            "user_id": ["ada", "bob", "ada", "ada"],
            "n": [0, 1, 2, 3],
        }
    )
    assert without_forgotten(frame)["n"].to_list() == [1, 3]


def test_keys_are_found_whatever_characters_are_in_them(redis_url: str, namespace: str) -> None:
    client = connect(redis_url)
    odd = rf"*?[a-z]\{namespace}"
    key, other = f"k{odd}".encode(), f"kxx[az]{namespace}".encode()
    try:
        client.mset({key: b"1", other: b"1"})
        assert RedisKeys(client).ending(odd.encode()) == [key]
        assert RedisKeys(client).containing(odd[1:-1].encode()) == [key]
    finally:
        client.delete(key, other)
        client.close()
