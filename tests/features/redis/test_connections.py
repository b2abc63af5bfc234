"""Both clients on real servers: broken, slow, killed, secured, clustered, replicated."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from recsys.errors import ServerError
from recsys.features.hashes import Found, Wanted
from recsys.features.redis.commands import pack, slot_of
from recsys.features.redis.replies import ErrorReply
from recsys.features.redis_hashes import AsyncRedisHashes, RedisHashes, connect
from tests.features.redis.redis_servers import (
    Starter,
    launch_of,
    make_authority,
    port_of,
    server_pid,
    start_cluster,
    tls_in_front,
    urls,
    wait_until,
)

pytestmark = pytest.mark.servers


class Blocking:
    def __init__(self, url: str, timeout_s: float) -> None:
        self.hashes: Any = RedisHashes(url, timeout_s=timeout_s, from_replicas=True)

    def read(self, wanted: Wanted) -> Found:
        return self.hashes.read(wanted)  # type: ignore[no-any-return]

    def call(self, keys: list[bytes], commands: list[bytes]) -> list[Any]:
        return self.hashes.client.call(keys, commands)  # type: ignore[no-any-return]

    def by_node(self, keys: list[bytes]) -> list[list[int]]:
        return self.hashes.client.by_node(keys)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.hashes.close()


class OnLoop(Blocking):
    def __init__(self, url: str, timeout_s: float) -> None:
        self.hashes = AsyncRedisHashes(url, timeout_s=timeout_s, from_replicas=True)
        self._runner = asyncio.Runner()

    def read(self, wanted: Wanted) -> Found:
        return self._runner.run(self.hashes.read(wanted))  # type: ignore[no-any-return]

    def call(self, keys: list[bytes], commands: list[bytes]) -> list[Any]:
        return self._runner.run(self.hashes.client.call(keys, commands))  # type: ignore[no-any-return]

    def by_node(self, keys: list[bytes]) -> list[list[int]]:
        return self._runner.run(self.hashes.client.by_node(keys))  # type: ignore[no-any-return]

    def close(self) -> None:
        self._runner.run(self.hashes.aclose())
        self._runner.close()


Open = Callable[..., Blocking]


@pytest.fixture(params=[Blocking, OnLoop])
def open_reader(request: pytest.FixtureRequest) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def make(url: str, timeout_s: float = 3.0) -> Blocking:
            return stack.enter_context(contextlib.closing(request.param(url, timeout_s)))

        yield make


def fill(client: redis.Redis, count: int = 40) -> tuple[Wanted, Found]:
    wanted: list[tuple[bytes, tuple[bytes, ...]]] = []
    found: Found = []
    for n in range(count):
        key = b"k%d" % n
        client.hset(key, mapping={b"a": b"%d" % n, b"b": b"x" * (n * 100)})
        wanted.append((key, (b"a", b"b", b"absent")))
        found.append([b"%d" % n, b"x" * (n * 100), None])
    return [*wanted, (b"nobody", (b"a",))], [*found, [None]]


def test_many_hashes_in_one_round_trip(open_reader: Open, redis_url: str) -> None:
    with connect(redis_url) as client:
        wanted, found = fill(client)
        reader = open_reader(redis_url)
        assert reader.read([]) == []
        assert reader.read(wanted) == found
        before = client.info("stats")["total_connections_received"]
        for _ in range(5):
            assert reader.read(wanted) == found
        assert client.info("stats")["total_connections_received"] == before


@pytest.mark.parametrize("there", [0, 1, 700])
def test_of_hashes_that_are_hardly_ever_there_those_that_are_are_found(
    redis_url: str, namespace: str, there: int
) -> None:
    keys = [b"%s-%d" % (namespace.encode(), n) for n in range(1_500)]
    wanted: list[tuple[bytes, tuple[bytes, ...]]] = [(key, (b"a", b"absent")) for key in keys]
    with connect(redis_url) as client, contextlib.closing(RedisHashes(redis_url)) as reader:
        assert reader.read(wanted) == [[None, None]] * len(keys)
        written = set(keys[1::2][:there])
        try:
            for key in written:
                client.hset(key, "a", key)
            before = client.info("commandstats").get("cmdstat_hmget", {"calls": 0})["calls"]
            found = [[key if key in written else None, None] for key in keys]
            for _ in range(3):  # asked which are there, and not, as they are many or few
                assert reader.read(wanted) == found
            calls = client.info("commandstats").get("cmdstat_hmget", {"calls": 0})["calls"]
            assert calls - before < (200 if there < 2 else 3 * len(keys))
            if written:
                client.set(keys[0], "no hash")
                with pytest.raises(ServerError, match="WRONGTYPE"):
                    reader.read(wanted)
        finally:
            client.unlink(*keys)


def test_a_key_of_another_kind_leaves_the_connection_clean(
    open_reader: Open, redis_url: str, namespace: str
) -> None:
    key = namespace.encode()
    with connect(redis_url) as client:
        wanted, found = fill(client)
        client.set(key, "no hash", ex=60)
        reader = open_reader(redis_url)
        with pytest.raises(ServerError, match="WRONGTYPE"):
            reader.read([*wanted[:3], (key, (b"a",)), *wanted[3:]])
        assert reader.read(wanted) == found


def test_a_restarted_server_is_found_again(
    open_reader: Open, own_server: Starter, tmp_path: Path
) -> None:
    launch = launch_of(tmp_path)
    keeper = own_server(launch)
    with connect(launch.address) as client:
        wanted, found = fill(client)
        reader = open_reader(launch.address)
        assert reader.read(wanted) == found
        time.sleep(1.2)  # appendfsync everysec
    os.kill(server_pid(keeper), signal.SIGKILL)
    keeper.wait(10)
    with pytest.raises(ServerError, match=f"127.0.0.1:{port_of(launch)}"):
        reader.read(wanted)
    own_server(launch)
    assert reader.read(wanted) == found


def test_a_connection_closed_while_idle_is_opened_again(open_reader: Open, redis_url: str) -> None:
    with connect(redis_url) as client:
        wanted, found = fill(client)
        reader = open_reader(redis_url)
        assert reader.read(wanted) == found
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert reader.read(wanted) == found


def test_a_slow_server_costs_the_time_out_and_its_late_reply_answers_nobody(
    open_reader: Open, own_server: Starter, tmp_path: Path
) -> None:
    launch = launch_of(tmp_path)
    pid = server_pid(own_server(launch))
    with connect(launch.address) as client:
        wanted, found = fill(client)
        reader = open_reader(launch.address, timeout_s=0.3)
        assert reader.read(wanted[:1]) == found[:1]
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(ServerError, match="TimeoutError"):
                reader.read(wanted[1:2])
            assert time.monotonic() - began < 2.0
        finally:
            os.kill(pid, signal.SIGCONT)
        for n in range(2, 6):
            assert reader.read(wanted[n : n + 1]) == found[n : n + 1]


def test_threads_share_a_reader(redis_url: str) -> None:
    with connect(redis_url) as client:
        wanted, found = fill(client)
    reader, wrong = RedisHashes(redis_url), []

    def read(first: int) -> None:
        for n in range(200):
            at = (first + n) % len(wanted)
            if reader.read(wanted[at : at + 3]) != found[at : at + 3]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.close()
    assert not wrong


def test_cancelled_requests_do_not_answer_others(redis_url: str) -> None:
    with connect(redis_url) as client:
        wanted, found = fill(client)

    async def story() -> None:
        reader = AsyncRedisHashes(redis_url, max_connections=4)
        for n in range(60):
            task = asyncio.create_task(reader.read(wanted))
            await asyncio.sleep(0.0002 * (n % 6))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            at = n % len(wanted)
            assert await reader.read(wanted[at : at + 1]) == found[at : at + 1]
        many = [reader.read(wanted[n : n + 2]) for n in range(30)]
        assert await asyncio.gather(*many) == [found[n : n + 2] for n in range(30)]
        await reader.aclose()

    asyncio.run(story())


def test_a_reader_outlives_an_event_loop(redis_url: str) -> None:
    with connect(redis_url) as client:
        wanted, found = fill(client)
    reader = AsyncRedisHashes(redis_url)

    async def once() -> None:
        assert await reader.read(wanted) == found
        await reader.aclose()

    asyncio.run(once())
    asyncio.run(once())


def test_tls_with_an_authority_of_ones_own(
    open_reader: Open, redis_url: str, tmp_path: Path
) -> None:
    ca, certificate, key = make_authority(tmp_path)
    with connect(redis_url) as client:
        wanted, found = fill(client)
        host, _, rest = redis_url.removeprefix("redis://").partition(":")
        port, _, database = rest.partition("/")
    with tls_in_front(int(port), certificate, key, ca) as secured:
        place = f"rediss://{host}:{secured}/{database}?ssl_ca_certs={ca}"
        mine = f"&ssl_certfile={certificate}&ssl_keyfile={key}"
        reader = open_reader(place + mine)
        assert reader.read(wanted) == found
        assert reader.read(wanted) == found
        with connect(place + mine) as client:
            assert client.ping()
        for bad in (
            f"rediss://{host}:{secured}/{database}?ssl_certfile={certificate}&ssl_keyfile={key}",
            place,
        ):
            with pytest.raises(ServerError, match=r"SSL|Connection|closed"):
                open_reader(bad).read(wanted)


def test_an_acl_user_may_read_what_it_may(
    open_reader: Open, own_server: Starter, tmp_path: Path
) -> None:
    launch = launch_of(tmp_path)
    own_server(launch)
    with connect(launch.address) as client:
        wanted, found = fill(client)
        client.acl_setuser(
            "reader", enabled=True, passwords=["+pa/ss word"], keys=["k*", "nobody"],
            commands=["+hmget", "+select"],
        )  # fmt: skip
        client.acl_setuser("default", enabled=True, passwords=["+other"], nopass=False)
        place = f"127.0.0.1:{port_of(launch)}/0"
        reader = open_reader(f"redis://reader:pa%2Fss%20word@{place}")
        assert reader.read(wanted) == found
        with pytest.raises(ServerError, match="NOPERM"):
            reader.read([(b"private", (b"a",))])
        assert reader.read(wanted) == found
        with pytest.raises(ServerError, match="WRONGPASS") as caught:
            open_reader(f"redis://reader:mistaken@{place}").read(wanted)
        assert "mistaken" not in str(caught.value)
        with pytest.raises(ServerError, match="NOAUTH"):
            open_reader(f"redis://{place}").read(wanted)


def test_a_cluster_is_read_with_one_round_trip_per_node(
    open_reader: Open, own_server: Starter, tmp_path: Path
) -> None:
    launches = start_cluster(own_server, tmp_path)
    client = connect(urls(launches))
    wanted, found = fill(client)
    reader = open_reader(urls(launches[:1]))
    assert reader.read(wanted) == found

    keys = [key for key, _ in wanted]
    groups = reader.by_node(keys)
    assert len(groups) == 3
    assert sorted(n for group in groups for n in group) == list(range(len(keys)))
    nodes = [redis.Redis(port=port_of(launch)) for launch in launches]
    calls = [node.info("stats")["total_reads_processed"] for node in nodes]
    for _ in range(10):
        assert reader.read(wanted) == found
    # INFO itself is one read more on each node.
    after = [node.info("stats")["total_reads_processed"] for node in nodes]
    assert [b - a for a, b in zip(calls, after, strict=True)] == [11, 11, 11]

    # A slot that moves: first half (ASK for keys already gone), then wholly (MOVED).
    key = wanted[0][0]
    slot = slot_of(key)
    names = [node.execute_command("CLUSTER", "MYID").decode() for node in nodes]
    source = next(n for n in range(3) if _has(nodes[n], key))
    target = (source + 1) % 3
    nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    nodes[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    nodes[source].execute_command("MIGRATE", "127.0.0.1", port_of(launches[target]), key, 0, 1000)
    assert reader.read(wanted) == found
    for n in (target, source, 3 - target - source):
        nodes[n].execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
    assert reader.read(wanted) == found
    assert reader.read(wanted) == found
    refusals = [node.info("errorstats").get("errorstat_MOVED", {"count": 0}) for node in nodes]
    moved = sum(entry["count"] for entry in refusals)
    assert reader.read(wanted) == found
    again = [node.info("errorstats").get("errorstat_MOVED", {"count": 0}) for node in nodes]
    assert sum(entry["count"] for entry in again) == moved, "the new topology was not learnt"

    # Scripts go to the node of their key, and a refusal is a reply.
    script = [pack(b"EVAL", b"return KEYS[1]", b"1", key) for key in keys]
    assert reader.call(keys, script) == keys
    (reply,) = reader.call(
        [b"k1"], [pack(b"EVAL", b"return redis.call('GET', KEYS[1])", b"1", b"k1")]
    )
    assert isinstance(reply, ErrorReply)
    for node in nodes:
        node.close()
    client.close()


def _has(node: redis.Redis, key: bytes) -> bool:
    try:
        return bool(node.exists(key))
    except redis.RedisError:
        return False


def test_a_replica_takes_over_from_a_dead_primary(own_server: Starter, tmp_path: Path) -> None:
    started: dict[str, Any] = {}

    def start(launch: Any) -> Any:
        started[launch.address] = own_server(launch)
        return started[launch.address]

    launches = start_cluster(start, tmp_path, replicas=1)
    client = connect(urls(launches))
    wanted, found = fill(client)
    with redis.Redis(port=port_of(launches[0])) as primary:
        primary.wait(1, 2000)
    with contextlib.ExitStack() as stack:
        plain, replicas = (
            [
                stack.enter_context(contextlib.closing(kind(urls(launches, query), 3.0)))
                for kind in (Blocking, OnLoop)
            ]
            for query in ("", "?read_from=replica")
        )
        for reader in plain:
            assert reader.read(wanted) == found
        with redis.Redis(port=port_of(launches[3])) as replica:
            assert "cmdstat_hmget" not in replica.info("commandstats")
            for n, reader in enumerate(replicas):
                assert reader.read(wanted) == found
                assert replica.info("commandstats")["cmdstat_hmget"]["calls"] >= n + 1
        os.kill(server_pid(started[launches[0].address]), signal.SIGKILL)

        def reads() -> bool:
            try:
                return plain[0].read(wanted) == found
            except ServerError:
                return False

        wait_until(reads, 30)
        for reader in (*plain, *replicas):
            assert reader.read(wanted) == found
    client.close()


def test_a_replica_of_one_server_is_read_and_done_without(
    open_reader: Open, own_server: Starter, tmp_path: Path
) -> None:
    primary, replica = launch_of(tmp_path / "a"), launch_of(tmp_path / "b")
    own_server(primary)
    keeper = own_server(replica)
    with connect(primary.address) as client, connect(replica.address) as copy:
        copy.execute_command("REPLICAOF", "127.0.0.1", port_of(primary))
        wait_until(lambda: copy.info("replication").get("master_link_status") == "up")
        wanted, found = fill(client)
        client.wait(1, 2000)
        reader = open_reader(f"{primary.address}?replica=127.0.0.1:{port_of(replica)}")
        assert reader.read(wanted) == found
        assert "cmdstat_hmget" in copy.info("commandstats")
        assert "cmdstat_hmget" not in client.info("commandstats")
        # Writes go to the primary.
        assert reader.call([b"w"], [pack(b"HSET", b"w", b"a", b"1")]) == [1]
    keeper.terminate()
    keeper.wait(15)
    assert reader.read(wanted) == found
