"""What real servers say of changed items: every kind of change, before the proof that it is all."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from recsys.errors import ServerError
from recsys.features.item_feed import ItemFeed
from recsys.features.key_layout import EntityKeys
from recsys.features.redis.commands import slot_of
from recsys.features.redis_hashes import connect
from serving.embedded.launch import Launch
from tests import servers
from tests.features.redis.redis_servers import Starter, launch_of, port_of, urls, wait_until
from tests.features.worlds import small_plan

pytestmark = pytest.mark.servers
KEYS = EntityKeys(("item_id",), "test")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server nobody else empties: that is told to all who listen, whatever the database."""
    launch = launch_of(tmp_path_factory.mktemp("redis"))
    with servers.own_server(launch):
        yield launch.address


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with connect(url) as client:
        client.flushdb()
        yield client


@pytest.fixture
def feed(client: Any, url: str) -> Iterator[ItemFeed]:
    with contextlib.closing(ItemFeed(small_plan(), url)) as feed:
        assert feed.changed() == set()
        yield feed


def test_every_way_to_change_an_item_is_heard_of(feed: ItemFeed, client: Any) -> None:

    def heard() -> list[str]:
        changed = feed.changed()
        assert changed is not None
        return sorted(feed.ids_of(changed))

    key = KEYS.of("a")
    assert heard() == []
    client.hset(key, "f", 1)
    assert heard() == ["a"]
    assert heard() == []
    client.hdel(key, "f")
    assert heard() == ["a"]
    client.eval("redis.call('HSET', KEYS[1], 'f', 2)", 1, key)
    assert heard() == ["a"]
    client.rename(key, KEYS.of("b"))
    assert heard() == ["a", "b"]
    with client.pipeline(transaction=True) as pipe:
        pipe.hset(key, "f", 1).hset(KEYS.of("é"), "f", 1)
        pipe.execute()
    assert heard() == ["a", "é"]
    client.pexpire(key, 20)
    assert heard() == ["a"]
    wait_until(lambda: not client.exists(key))
    assert heard() == ["a"]
    client.delete(KEYS.of("b"))
    assert heard() == ["b"]
    client.flushdb()
    assert feed.changed() is None
    assert heard() == []


def test_keys_of_others_are_no_items_of_ours(feed: ItemFeed, client: Any) -> None:
    for other in (
        EntityKeys(("item_id",), "test2").of("a"), EntityKeys(("item_id",), "te").of("a"),
        EntityKeys(("item_id",), "").of("a"), EntityKeys(("user_id",), "test").of("a"),
        EntityKeys(("item_id", "user_id"), "test").of("a", "b"), KEYS.of("a")[:-20], b"\\x01",
    ):  # fmt: skip
        client.set(other, 1, px=100)
    changed = feed.changed()
    assert changed is not None
    assert feed.ids_of(changed) == []
    client.hset(KEYS.of(""), "f", 1)
    assert feed.ids_of(feed.changed() or ()) == [""]


def test_what_was_written_before_is_heard_of_however_busy_the_server_is(
    feed: ItemFeed, url: str
) -> None:
    """Writers note what they have written; what was noted before a look is in that look."""
    written: list[str] = []
    stopped = threading.Event()

    def write(name: str) -> None:
        with connect(url) as mine:
            for n in range(100_000):
                if stopped.is_set():
                    return
                item_id = f"{name}{n}"
                mine.set(KEYS.of(item_id), 1, px=2_000)
                written.append(item_id)

    threads = [threading.Thread(target=write, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    try:
        known: set[str] = set()
        for _ in range(200):
            before = len(written)
            changed = feed.changed()
            assert changed is not None
            known.update(feed.ids_of(changed))
            assert known.issuperset(written[:before])
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert len(written) > 200


def test_a_feed_whose_connection_is_gone_says_so(feed: ItemFeed, client: Any) -> None:
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(ServerError, match="ConnectionError"):
        feed.changed()


def test_a_server_that_refuses_is_said_in_its_words(own_server: Starter, tmp_path: Path) -> None:
    launch = launch_of(
        tmp_path, "--user", "reader", "on", ">secret", "~*", "+@all", "-client|tracking"
    )
    own_server(launch)
    with pytest.raises(ServerError, match="NOPERM"):
        ItemFeed(small_plan(), f"redis://reader:secret@127.0.0.1:{port_of(launch)}/0")


def test_a_cluster_is_heard_as_a_whole(cluster_launches: list[Launch]) -> None:
    nodes = [redis.Redis(port=port_of(launch)) for launch in cluster_launches]
    url = urls(cluster_launches)
    with connect(url) as client, contextlib.closing(ItemFeed(small_plan(), url)) as feed:
        ids = [f"i{n}" for n in range(60)]
        for item_id in ids:
            client.hset(KEYS.of(item_id), "f", 1)
        changed = feed.changed()
        assert changed is not None
        assert sorted(feed.ids_of(changed)) == sorted(ids)
        stored = feed.read([*ids, "nobody"])
        assert stored.expires_in_ms == [-1] * 60 + [-2]
        nodes[1].flushall()
        assert feed.changed() is None
        # A slot without keys gets another master: who has it now is known to all before long.
        slot = next(n for n in range(5461) if n not in {slot_of(KEYS.of(i)) for i in ids})
        new = nodes[2].execute_command("CLUSTER", "MYID").decode()
        nodes[2].execute_command(
            "CLUSTER",
            "SETSLOT",
            slot,
            "IMPORTING",
            nodes[0].execute_command("CLUSTER", "MYID").decode(),
        )
        nodes[0].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", new)
        for node in (nodes[2], nodes[0], nodes[1]):
            node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", new)

        def is_lost() -> bool:
            try:
                feed.changed()
            except ServerError as error:
                return "slots" in str(error) or "do not agree" in str(error)
            return False

        wait_until(is_lost)

        def opened() -> ItemFeed | None:
            with contextlib.suppress(ServerError):
                return ItemFeed(small_plan(), url)
            return None

        deadline = time.monotonic() + 20
        while (again := opened()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with contextlib.closing(again):
            again.changed()
            client.hset(KEYS.of("i1"), "f", 2)
            assert again.ids_of(again.changed() or ()) == ["i1"]
    for node in nodes:
        node.close()
