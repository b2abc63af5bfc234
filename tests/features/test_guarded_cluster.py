"""Writing hashes to a real cluster of three nodes: failed over, emptied, dealt out anew."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from recsys.events.log import TopicPartition
from recsys.features.guard_nodes import copy_key
from recsys.features.guarded_writer import GuardedWriter, StoreChangedError
from recsys.features.hashes import ANY_VERSION, Write
from recsys.features.progress import progress_key
from recsys.features.redis.commands import slot_of
from recsys.features.redis_hashes import connect
from serving.embedded.launch import Launch
from tests.features.redis.redis_servers import (
    Starter,
    port_of,
    server_pid,
    start_cluster,
    urls,
    wait_until,
)
from tests.features.test_guarded_writer import patient

pytestmark = pytest.mark.servers
AT = TopicPartition("t", 0)


class Cluster:
    """Three nodes and a namespace on them."""

    def __init__(self, launches: list[Launch]) -> None:
        self.launches = launches
        self.url = urls(launches)
        self.client: Any = connect(self.url)
        self.writers: list[GuardedWriter] = []
        self.name = "c"

    def writer(self, **options: Any) -> GuardedWriter:
        writer = GuardedWriter(self.url, self.name, **options)
        self.writers.append(writer)
        if not writer.begin():
            writer.found("layout")
        return writer

    def copies(self) -> dict[bytes, dict[bytes, bytes]]:
        found = self.client.scan_iter(match=progress_key(self.name) + b"*", count=5_000)
        return {key: self.client.hgetall(key) for key in found}

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
        self.client.close()


@pytest.fixture
def cluster(cluster_launches: list[Launch]) -> Iterator[Cluster]:
    cluster = Cluster(cluster_launches)
    cluster.client.flushdb()
    yield cluster
    cluster.close()


def writes(version: int, value: bytes, num: int = 700) -> list[Write]:
    return [Write(b"k%d" % n, {b"x": value, b"y": b""}, version) for n in range(num)]


def test_a_write_counts_only_on_what_it_was_made_from(cluster: Cluster) -> None:
    writer = cluster.writer()
    assert writer.write(writes(0, b"1")) == []
    assert {cluster.client.hgetall(b"k%d" % n)[b"x"] for n in range(700)} == {b"1"}
    assert len({slot_of(b"k%d" % n) * 3 // 16384 for n in range(700)}) == 3
    stale = [Write(b"k3", {b"x": b"2"}, 0), Write(b"k4", {}, 0, remove=True)]
    assert sorted(writer.write([*stale, Write(b"k5", {}, 1, remove=True)])) == [b"k3", b"k4"]
    assert cluster.client.exists(b"k5") == 0
    assert cluster.client.hgetall(b"k3") == {b"x": b"1", b"y": b"", b"~w": b"1"}
    writer.advance({b"t/0": 10, b"base:t/0": 0})
    assert [copy[b"t/0"] for copy in cluster.copies().values()] == [b"10"] * 3
    again = cluster.writer()
    again.advance({b"t/0": 9})
    assert [copy[b"t/0"] for copy in cluster.copies().values()] == [b"10"] * 3


def test_writes_are_under_way_on_all_nodes_until_they_are_waited_for(cluster: Cluster) -> None:
    writer = cluster.writer()
    many = [w._replace(version=n % 2) for n, w in enumerate(writes(0, b"1", 2_000))]
    sent = writer.send(many)
    writer.advance({b"t/0": 10, b"base:t/0": 0})  # is no answer of theirs
    assert sorted(sent.refused()) == sorted(w.key for w in many if w.version)
    assert {cluster.client.hget(w.key, "x") for w in many if not w.version} == {b"1"}
    assert writer.send([w._replace(version=1) for w in many if not w.version]).refused() == []
    cluster.writer().seize("another")
    with pytest.raises(StoreChangedError):
        writer.send(many).refused()


def test_every_node_refuses_who_is_of_another_time(cluster: Cluster) -> None:
    old, new = cluster.writer(), cluster.writer()
    nodes = [[w for w in writes(0, b"1", 60) if slot_of(w.key) * 3 // 16384 == n] for n in range(3)]
    old.take([AT])
    new.take([AT])
    for some in nodes:
        with pytest.raises(StoreChangedError, match="another worker"):
            old.write(some)
    assert old.begin()
    new.seize("another")
    for some in nodes:
        with pytest.raises(StoreChangedError, match="features are others"):
            old.write(some)
    assert [w.key for w in writes(0, b"", 60) if cluster.client.exists(w.key)] == []
    assert new.write([w._replace(version=ANY_VERSION) for w in writes(0, b"1")]) == []
    told = {b"layout": b"another", b"backfill": b"", b"t/0": b"5", b"base:t/0": b"0"}
    new.set_progress(Write(progress_key("c"), told, ANY_VERSION))
    assert [copy[b"t/0"] for copy in cluster.copies().values()] == [b"5"] * 3
    assert old.begin()
    new.switch("further", ["s"], {b"t/0": 3})
    with pytest.raises(StoreChangedError):
        old.advance({b"t/0": 6})
    assert {(c[b"layout"], c[b"s@t/0"]) for c in cluster.copies().values()} == {(b"further", b"3")}


def test_a_node_that_was_emptied_is_an_empty_store(cluster: Cluster) -> None:
    for launch in cluster.launches:
        writer = cluster.writer()
        writer.write([w._replace(version=ANY_VERSION) for w in writes(0, b"1")])
        writer.advance({b"t/0": 10, b"base:t/0": 0})
        before = writer.epoch
        with redis.Redis(port=port_of(launch)) as node:
            node.flushall()
        with pytest.raises(StoreChangedError, match="features are others"):
            writer.advance({})
        assert not writer.begin()
        assert writer.epoch == "", "nobody goes on with half a backfill of it"
        writer.found("layout")
        assert writer.epoch not in ("", before)
        assert [b"t/0" in copy for copy in cluster.copies().values()] == [False] * 3


def test_slots_dealt_out_anew_are_an_empty_store(cluster: Cluster) -> None:
    sleeper, writer = cluster.writer(), cluster.writer()
    nodes = [redis.Redis(port=port_of(launch)) for launch in cluster.launches]
    taken = {slot_of(key) for key in cluster.client.scan_iter()}
    mine = next(w for w in writes(0, b"1") if (s := slot_of(w.key)) < 5461 and s not in taken)
    others = [w for w in writes(0, b"1", 90) if slot_of(w.key) != slot_of(mine.key)]

    def give(to: int) -> None:
        name = nodes[to].execute_command("CLUSTER", "MYID")
        for node in nodes:
            node.execute_command("CLUSTER", "SETSLOT", slot_of(mine.key), "NODE", name)

    try:
        give(1)
        with pytest.raises(StoreChangedError, match="non local"):
            writer.write([mine])
        assert not writer.begin()
        writer.seize("layout")
        assert writer.write([mine, *others]) == []
        with pytest.raises(StoreChangedError):
            sleeper.write([w._replace(version=1) for w in others[:1]])
        assert len(cluster.copies()) == 3
    finally:
        nodes[1].flushall()  # a slot is given away empty
        give(0)
        for node in nodes:
            node.close()


def test_a_copy_of_another_layout_of_the_slots_guards_nothing(cluster: Cluster) -> None:
    writer = cluster.writer()
    stale = copy_key(progress_key("c"), 3)
    cluster.client.hset(stale, "epoch", writer.epoch)
    writer.seize("layout")
    assert not cluster.client.exists(stale)


class Dying(GuardedWriter):
    """Dies before it sends for the nth time."""

    left = 10**9

    def _exchange(self, commands: Sequence[tuple[int, bytes]]) -> list[Any]:
        self.left -= len(commands)
        if self.left < 0:
            some = list(commands)[: len(commands) + self.left]  # to some nodes it was sent
            if some:
                super()._exchange(some)
            raise KeyboardInterrupt
        return super()._exchange(commands)


@pytest.mark.parametrize("deed", ["switch", "seize", "set", "lose"])
def test_killed_anywhere_between_nodes_it_is_whole_or_begun_anew(
    cluster: Cluster, deed: str
) -> None:
    progress = Write(progress_key("c"), {b"layout": b"l", b"backfill": b"", b"t/0": b"9"}, -1)
    ends = set()
    for at in range(20):
        cluster.client.flushdb()
        cluster.writer().advance({b"t/0": 10, b"base:t/0": 0})
        dying = Dying(cluster.url, "c")
        cluster.writers.append(dying)
        assert dying.begin()
        if deed == "set":
            dying.seize("layout")
        if deed == "lose":
            copy = max(cluster.copies(), key=len)
            assert cluster.client.hset(copy, "t/0", 7) == 0
        dying.left = at
        try:
            if deed == "seize":
                dying.seize("layout")
            elif deed == "set":
                dying.set_progress(progress)
            elif deed == "lose":
                dying.begin()
            else:
                dying.switch("further", ["s"], {b"t/0": 3})
        except KeyboardInterrupt:
            is_done = False
        else:
            is_done = True
        after = GuardedWriter(cluster.url, "c")
        cluster.writers.append(after)
        assert after.begin()
        after.advance({})
        copies = list(cluster.copies().values())
        told = {(c[b"t/0"], c[b"layout"], c.get(b"s@t/0"), c.get(b"backfill")) for c in copies}
        assert len(copies) == 3
        assert len({c[b"epoch"] for c in copies}) == 1
        half = {one[3] for one in told} == {b"1"}
        assert half or len(told) == 1, told
        ends |= {(None, None, None, b"1")} if half else told
        if is_done:
            break
    else:
        pytest.fail("it does not end")
    wanted = {
        "seize": {(b"10", b"layout", None, None), (None, None, None, b"1")},
        "set": {(None, None, None, b"1"), (b"9", b"l", None, b"")},
        "lose": {(b"7", b"layout", None, None)},
        "switch": {(b"10", b"layout", None, None), (b"10", b"further", b"3", None)},
    }
    assert ends == wanted[deed]


@pytest.mark.parametrize("is_home", [True, False])
def test_a_node_that_lost_its_last_writes_takes_the_progress_back(
    own_server: Starter, tmp_path: Path, is_home: bool
) -> None:
    keepers: list[Any] = []

    def start(launch: Launch) -> Any:
        keepers.append(own_server(launch))
        return keepers[-1]

    cluster = Cluster(start_cluster(start, tmp_path, replicas=1))
    places = ((slot_of(progress_key(name)) < 5461, name) for name in map(str, range(99)))
    cluster.name = next(name for at_home, name in places if at_home == is_home)
    try:
        writer, other = cluster.writer(pause=patient(30)), cluster.writer()
        assert writer.write(writes(0, b"1")) == []
        writer.advance({b"t/0": 10, b"t/1": 4, b"base:t/0": 0, b"base:t/1": 0})
        replica = server_pid(keepers[3])
        with redis.Redis(port=port_of(cluster.launches[0])) as node:
            assert node.wait(1, 5_000) == 1
            os.kill(replica, signal.SIGSTOP)
            node.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        assert writer.write(writes(1, b"2")) == []
        writer.advance({b"t/0": 20, b"t/1": 4, b"t/2": 1, b"base:t/2": 0})
        server = server_pid(keepers[0])
        keepers[0].kill()
        os.kill(server, signal.SIGKILL)
        os.kill(replica, signal.SIGCONT)
        with pytest.raises(StoreChangedError):
            writer.write(writes(2, b"3"))
        before = writer.epoch
        assert writer.begin()
        wait_until(lambda: len(cluster.copies()) == 3)
        told = {key: (c[b"t/0"], c[b"t/1"], c.get(b"t/2")) for key, c in cluster.copies().items()}
        assert told.pop(progress_key(cluster.name)) == (b"10", b"4", None)
        # What the others have may be of more than the progress says, and is skipped.
        assert set(told.values()) == {(b"20", b"4", b"1") if is_home else (b"10", b"4", None)}
        assert (writer.epoch == before) is is_home
        with pytest.raises(StoreChangedError):
            other.advance({b"t/0": 30})
        values = {w.key: cluster.client.hget(w.key, "x") for w in writes(0, b"")}
        lost = {key for key, value in values.items() if value == b"1"}
        assert lost == {key for key in values if slot_of(key) < 5461}, "what it had not passed on"
    finally:
        cluster.close()
