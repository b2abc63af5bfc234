"""Writing hashes to a real server that is cut off, full, read-only, slow, restarted or emptied."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import redis

from recsys.errors import ServerError
from recsys.features.guarded_writer import GuardedWriter, StoreChangedError
from recsys.features.hashes import ANY_VERSION, Write
from recsys.features.lease import Lease
from recsys.features.packed_fields import PackedFields, each_packed
from recsys.features.patience import Patience
from recsys.features.progress import progress_key
from recsys.settings import Settings
from serving.embedded.launch import Launch
from serving.embedded.redis import redis_launch
from tests.features.cutting_proxy import CuttingProxy

pytestmark = pytest.mark.servers


class Place:
    """A namespace of its own on a server."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace
        self.client: redis.Redis = redis.Redis.from_url(url)
        self.writers: list[GuardedWriter] = []

    def key(self, name: str) -> bytes:
        return f"{self.namespace}-{name}".encode()

    def writer(self, *, url: str | None = None, **options: object) -> GuardedWriter:
        writer = GuardedWriter(url or self.url, self.namespace, **options)  # type: ignore[arg-type]
        self.writers.append(writer)
        if not writer.begin():
            writer.found("layout")
        return writer

    def stored(self, name: str) -> dict[bytes, bytes]:
        return self.client.hgetall(self.key(name))  # type: ignore[return-value]

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
        with contextlib.suppress(redis.RedisError):
            for key in self.client.scan_iter(match=f"{self.namespace}*"):
                self.client.delete(key)
        self.client.close()


@pytest.fixture
def place(redis_url: str, namespace: str) -> Iterator[Place]:
    place = Place(redis_url, namespace)
    yield place
    place.close()


def patient(seconds: float = 10.0) -> Patience:
    end_s = time.monotonic() + seconds
    return Patience(stop=lambda: time.monotonic() > end_s)


def test_a_write_counts_only_on_what_it_was_made_from(place: Place) -> None:
    writer = place.writer()
    a, b = place.key("a"), place.key("b")
    assert writer.write([Write(a, {b"x": b"1"}, 0), Write(b, {b"x": b"1"}, 3)]) == [b]
    assert place.stored("a") == {b"x": b"1", b"~w": b"1"}
    assert writer.write([Write(a, {b"y": b"2"}, 0)]) == [a]
    assert writer.write([Write(a, {b"y": b"2"}, 1), Write(b, {}, ANY_VERSION)]) == []
    assert place.stored("a") == {b"x": b"1", b"y": b"2", b"~w": b"2"}
    assert writer.write([Write(a, {}, 1, remove=True)]) == [a]
    assert writer.write([Write(a, {}, 2, remove=True), Write(b, {b"z": b""}, 1)]) == []
    assert place.stored("a") == {}
    assert place.stored("b") == {b"z": b"", b"~w": b"2"}


def test_writes_are_under_way_until_they_are_waited_for(place: Place) -> None:
    writer = place.writer(pause=patient())
    others = place.writer()
    many = [Write(place.key(f"m{n}"), {b"v": b"%d" % n}, n % 2) for n in range(5_000)]
    sent = writer.send(many)
    other = place.key("other")
    assert others.write([Write(other, {b"x": b"1"}, 0)]) == []
    writer.advance({b"t/0": 10})  # is no answer of theirs
    assert sent.refused() == [write.key for write in many if write.version]
    assert place.stored("m4998")[b"v"] == b"4998"
    assert writer.send([]).refused() == []

    # Cut off before the answer came: sent again, and refused since it was done.
    with CuttingProxy(place.url) as proxy:
        cut_off = place.writer(url=proxy.url, pause=patient())
        proxy.cut_after_next_answer()
        sent = cut_off.send([Write(other, {b"x": b"2"}, 1), Write(place.key("a"), {}, 0)])
        assert sent.refused() == [other, place.key("a")]
    assert place.stored("other")[b"x"] == b"2"

    # Who sends again, or begins anew, waits no longer for what was sent.
    writer.send([Write(other, {b"x": b"4"}, 2)])
    wait_for(lambda: place.stored("other")[b"x"] == b"4")
    assert writer.send([Write(other, {b"x": b"5"}, 3)]).refused() == []
    writer.send([Write(other, {b"x": b"6"}, 4)])
    wait_for(lambda: place.stored("other")[b"x"] == b"6")
    writer.begin()
    others.seize("another layout")
    with pytest.raises(StoreChangedError):
        writer.send([Write(other, {b"x": b"7"}, 5)]).refused()
    assert place.stored("other")[b"x"] == b"6"


def wait_for(claim: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)


def test_many_and_large_hashes_are_written_in_several_calls(place: Place) -> None:
    writer = place.writer()
    big = {b"f%d" % n: bytes(50) for n in range(9_000)}
    writes = [Write(place.key(f"k{n}"), {b"v": bytes(9_000)}, n % 2) for n in range(600)]
    refused = writer.write([*writes, Write(place.key("big"), big, 0)])
    assert refused == [write.key for write in writes if write.version]
    assert place.stored("big") == big | {b"~w": b"1"}
    assert place.stored("k0")[b"v"] == bytes(9_000)
    assert place.stored("k1") == {}


def test_where_reads_go_is_no_concern_of_writes(place: Place) -> None:
    key = place.key("a")
    writer = place.writer(url=f"{place.url}?replica=127.0.0.1:1")
    assert writer.write([Write(key, {b"x": b"1"}, 0)]) == []
    assert place.stored("a")[b"x"] == b"1"


def test_progress_never_goes_back(place: Place) -> None:
    writer = place.writer()
    writer.advance({b"t/0": 10, b"t/1": 5})
    place.writer().advance({b"t/0": 9, b"t/1": 12})
    stored = place.client.hgetall(progress_key(place.namespace))
    assert (stored[b"t/0"], stored[b"t/1"], stored[b"layout"]) == (b"10", b"12", b"layout")  # type: ignore[index]


def test_nothing_is_written_into_a_store_that_was_emptied_or_computed_anew(place: Place) -> None:
    old = place.writer()
    place.client.delete(progress_key(place.namespace))
    with pytest.raises(StoreChangedError, match="features are others"):
        old.write([Write(place.key("a"), {b"x": b"1"}, 0)])
    with pytest.raises(StoreChangedError):
        old.advance({b"t/0": 1})
    assert not old.begin()
    old.found("layout")
    assert old.write([Write(place.key("a"), {b"x": b"1"}, 0)]) == []
    new = place.writer()
    new.seize("another")
    with pytest.raises(StoreChangedError):
        old.write([Write(place.key("a"), {b"x": b"2"}, 1)])
    assert new.write([Write(place.key("a"), {b"x": b"3"}, ANY_VERSION)]) == []
    assert place.stored("a")[b"x"] == b"3"


def test_a_write_whose_answer_was_lost_is_refused_the_second_time(place: Place) -> None:
    with CuttingProxy(place.url) as proxy:
        writer = place.writer(url=proxy.url, pause=patient())
        proxy.cut_after_next_answer()
        assert writer.write([Write(place.key("a"), {b"x": b"1"}, 0)]) == [place.key("a")]
        assert place.stored("a") == {b"x": b"1", b"~w": b"1"}, "it was written, once"
        proxy.cut_after_next_answer()
        writer.advance({b"t/0": 7})
    assert place.client.hget(progress_key(place.namespace), "t/0") == b"7"


def test_scripts_forgotten_by_the_server_are_sent_again(place: Place) -> None:
    writer = place.writer()
    writer.write([Write(place.key("a"), {b"x": b"1"}, 0)])
    place.client.script_flush()
    assert writer.write([Write(place.key("a"), {b"x": b"2"}, 1)]) == []


OwnServer = Callable[[Launch], "subprocess.Popen[bytes]"]


@pytest.fixture
def own(own_settings: Settings, own_server: OwnServer, namespace: str) -> Iterator[Place]:
    launch = redis_launch(own_settings)
    own_server(launch)
    place = Place(launch.address, namespace)
    yield place
    place.close()


def test_a_full_store_is_waited_for(own: Place) -> None:
    writer = own.writer(pause=patient())
    own.client.config_set("maxmemory", 1)
    with_no_patience = own.writer()
    with pytest.raises(ServerError, match="OOM"):
        with_no_patience.write([Write(own.key("a"), {b"x": b"1"}, 0)])
    room = threading.Timer(0.5, lambda: own.client.config_set("maxmemory", 0))
    room.start()
    began_s = time.monotonic()
    assert writer.write([Write(own.key("a"), {b"x": b"1"}, 0)]) == []
    assert time.monotonic() - began_s > 0.3
    room.join()


def test_a_read_only_store_is_waited_for(own: Place) -> None:
    writer = own.writer(pause=patient())
    own.client.replicaof("127.0.0.1", "1")  # type: ignore[no-untyped-call]
    again = threading.Timer(0.5, lambda: own.client.replicaof("NO", "ONE"))  # type: ignore[no-untyped-call]
    again.start()
    # It may have followed another meanwhile, and forgotten what it had.
    with pytest.raises(StoreChangedError, match="the server is another"):
        writer.write([Write(own.key("a"), {b"x": b"1"}, 0)])
    again.join()
    assert writer.begin()
    assert writer.write([Write(own.key("a"), {b"x": b"1"}, 0)]) == []


def test_a_slow_store_is_waited_for_and_written_once(own: Place) -> None:
    writer = own.writer(pause=patient(), timeout_s=0.2)
    own.client.client_pause(700)
    began_s = time.monotonic()
    writer.write([Write(own.key("a"), {b"x": b"1"}, 0)])
    assert time.monotonic() - began_s > 0.4
    assert own.stored("a") == {b"x": b"1", b"~w": b"1"}


def test_a_restarted_server_is_another_store(
    own_settings: Settings, own_server: OwnServer, namespace: str
) -> None:
    launch = redis_launch(own_settings)
    keeper = own_server(launch)
    place = Place(launch.address, namespace)
    try:
        writer = place.writer(pause=patient(20))
        writer.write([Write(place.key("a"), {b"x": b"1"}, 0)])
        keeper.terminate()
        keeper.wait(20)
        own_server(launch)
        with pytest.raises(StoreChangedError, match="the server is another"):
            writer.write([Write(place.key("a"), {b"x": b"2"}, 1)])
        assert writer.begin(), "it kept its data"
        assert writer.write([Write(place.key("a"), {b"x": b"2"}, 1)]) == []
    finally:
        place.close()


def test_a_lease_has_one_holder(redis_url: str, namespace: str) -> None:
    client = redis.Redis.from_url(redis_url)
    old, new = (Lease(client, f"{namespace}:lease", lease_ms=60_000) for _ in range(2))
    try:
        assert old.try_acquire()
        assert not new.try_acquire()
        client.delete(f"{namespace}:lease")  # as if it had slept through
        assert new.acquire(stop=lambda: False)
        assert not old.acquire(stop=iter([False, True]).__next__, poll_s=0.0)
        old.release()
        assert new.holder() is not None, "only its own lease can be released"
        new.release()
        assert new.holder() is None
    finally:
        client.delete(f"{namespace}:lease")
        client.close()


@pytest.mark.parametrize("packed", [False, True])
def test_any_number_of_fields_of_any_length_arrive(place: Place, packed: bool) -> None:
    many = {b"f%d" % n: b"v" * (n % 300) for n in range(5_000)}
    small = {b"x": b"", b"\0": b"\0", b"c4": b"c4s"}

    def fields(of: dict[bytes, bytes]) -> Mapping[bytes, bytes]:
        return PackedFields(each_packed(of)) if packed else of

    writer = place.writer()
    a, b, c, d = (place.key(name) for name in "abcd")
    refused = writer.write(
        [
            Write(a, fields(small), 0),
            Write(b, fields(many), 7),
            Write(c, fields(many), 0),
            Write(d, fields({}), 0),
            Write(place.key("e"), fields(small), 0),
        ]
    )
    assert refused == [b]
    assert place.stored("a") == place.stored("e") == small | {b"~w": b"1"}
    assert place.stored("b") == {}
    assert place.stored("c") == many | {b"~w": b"1"}
    assert place.stored("d") == {b"~w": b"1"}
    assert writer.write([Write(a, {}, 1, remove=True), Write(b, fields(small), 0)]) == []
    assert place.stored("a") == {}
    assert place.stored("b") == small | {b"~w": b"1"}
