"""Reads whose answer is taken as arrays say what reads taken value by value say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from recsys.errors import ServerError
from recsys.features.column_writer import ColumnWriter
from recsys.features.feature_rows import Column, FeatureRows, ViewTimes
from recsys.features.plan import Plan
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import Hmgets
from recsys.features.redis.regular_rows import RegularReplies, part_of
from recsys.features.redis_hashes import connect
from recsys.features.row_groups import decode_group, make_group
from recsys.features.row_packer import RowPacker
from recsys.features.service_reader import AsyncServiceReader, EntityRequest, ServiceReader
from recsys.features.value_columns import Mask
from tests.features.online_store.views import plan_of, view_of

pytestmark = pytest.mark.servers
NOW = 1_800_000_000_123_456
HOUR_US = 3_600_000_000
FLOATS = ("a", "b", "c")
ITEM = view_of("item", dict.fromkeys(FLOATS, "float32"), {"item_id": "int64"}, ttl_ms=3_600_000)
SHOP = view_of(
    "shop",
    {"vec": "float32_list", "score": "float32"},
    {"item_id": "int64"},
    columns={"vec": ("x", "y")},
)
COUNT = 300


@pytest.fixture
def plan(namespace: str, redis_url: str) -> Iterator[Plan]:
    plan = plan_of(namespace, ITEM, SHOP)
    client, ids = RedisClient(redis_url), np.arange(COUNT)
    values = np.arange(COUNT * 6, dtype=np.float32).reshape(COUNT, 6)
    # Of the second before and of the whole second; some have been there for too long.
    times = NOW - ids * 7_001 - np.where(ids % 50 == 7, HOUR_US, 0)
    times[::9] = times[::9] // 1_000_000 * 1_000_000
    packer = RowPacker(ITEM, namespace)
    columns: dict[str, Any] = dict(zip(FLOATS, values.T[:3], strict=True))
    ColumnWriter(client, packer).write({"item_id": ids}, columns, times)
    packer = RowPacker(SHOP, namespace)
    columns = {"vec": values[:, 3:5], "score": values[:, 5]}
    ColumnWriter(client, packer).write({"item_id": ids}, columns, times - 5)
    client.close()
    yield plan
    with connect(redis_url) as redis:
        for key in redis.scan_iter(f"*{namespace}*"):
            redis.delete(key)


def assert_same(found: FeatureRows, wanted: FeatureRows) -> None:
    assert found.float_names == wanted.float_names
    np.testing.assert_array_equal(found.floats, wanted.floats)
    np.testing.assert_array_equal(found.float_mask, wanted.float_mask)
    assert found.columns.keys() == wanted.columns.keys()
    for name, column in wanted.columns.items():
        np.testing.assert_array_equal(found.columns[name].values, column.values)
        np.testing.assert_array_equal(found.columns[name].mask, column.mask)
    for name, times in wanted.views.items():
        np.testing.assert_array_equal(found.views[name].status, times.status)
        np.testing.assert_array_equal(found.views[name].event_time_us, times.event_time_us)


@pytest.mark.parametrize("keep_expired", [False, True])
@pytest.mark.parametrize("ids", [range(COUNT), [*range(100, 130), 5]])
def test_as_arrays_and_value_by_value(
    plan: Plan, redis_url: str, ids: Any, keep_expired: bool
) -> None:
    group = make_group(plan.project, [(view, view.features) for view in plan.views])
    assert group.shape is not None
    keys = group.keys.rows({"item_id": np.array(ids)})
    client, answers = RedisClient(redis_url), []
    for shape in (group.shape, None):
        commands = Hmgets()
        place = commands.add(keys, group.fields, shape)
        found = client.read(commands)
        assert isinstance(found, RegularReplies) == (shape is not None)
        rows = part_of(found, 0, place)
        answers.append(decode_group(group, rows, NOW, keep_expired=keep_expired))
    client.close()
    assert_same(*answers)
    expired = [n % 50 == 7 for n in ids]
    assert (answers[0].views["item"].status == np.where(expired, Mask.EXPIRED, 0)).all()
    assert np.isnan(answers[0].floats[expired][:, :3]).all() == (not keep_expired)


@pytest.mark.parametrize("absent", [[], [COUNT + 1], range(COUNT, COUNT + 100)])
def test_with_and_without_gaps_in_threads_and_on_a_loop(
    plan: Plan, redis_url: str, absent: Any
) -> None:
    ids = np.array([*range(40), *absent, *range(40, 200)])
    reader = ServiceReader(plan, redis_url)
    many = EntityRequest("all", {"item_id": ids})
    each = [EntityRequest("all", {"item_id": ids[n : n + 3]}) for n in range(0, len(ids), 3)]
    (wanted,) = reader.read([many], now_us=NOW)
    known = (ids < COUNT) & (ids % 50 != 7)
    np.testing.assert_array_equal(wanted.floats[known, 1], ids[known] * 6 + 1)
    assert (wanted.views["shop"].status == np.where(ids < COUNT, 0, Mask.MISSING)).all()
    for number, request in enumerate(each):
        (few,) = reader.read([request], now_us=NOW)
        np.testing.assert_array_equal(few.floats, wanted.floats[3 * number : 3 * number + 3])
    wrong: list[str] = []

    def again() -> None:
        for _ in range(5):
            try:
                first, *_, last = reader.read([many, each[0], many], now_us=NOW)
                assert_same(first, wanted)
                assert_same(last, wanted)
            except AssertionError as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=again) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

    async def on_loop() -> None:
        twin = AsyncServiceReader(plan, redis_url)
        for rows in await asyncio.gather(*[twin.read([many], now_us=NOW) for _ in range(8)]):
            assert_same(rows[0], wanted)
        await twin.aclose()

    asyncio.run(on_loop())
    reader.close()


@pytest.mark.parametrize("item_id", [5, 7, 9, COUNT + 1])
def test_one_entity_reads_as_it_does_among_many(plan: Plan, redis_url: str, item_id: int) -> None:
    reader = ServiceReader(plan, redis_url)
    (alone,) = reader.read([EntityRequest("all", {"item_id": [item_id]})], now_us=NOW)
    (several,) = reader.read([EntityRequest("all", {"item_id": [item_id, 1, 2]})], now_us=NOW)
    reader.close()
    first = FeatureRows(
        num_rows=1,
        float_names=several.float_names,
        floats=several.floats[:1],
        float_mask=several.float_mask[:1],
        columns={n: Column(c.values[:1], c.mask[:1]) for n, c in several.columns.items()},
        views={n: ViewTimes(v.status[:1], v.event_time_us[:1]) for n, v in several.views.items()},
    )
    assert_same(alone, first)
    assert alone.num_rows == 1


class HoldingProxy:
    """Stands before a server; of the next answer it holds the second half back until told."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "", parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self.holds = threading.Event()
        self.goes_on = threading.Event()
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Any, *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += (client, server)
                self._start(self._hand_on, client, server, False)
                self._start(self._hand_on, server, client, True)

    def _hand_on(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4_096):
                if is_answer and self.holds.is_set():
                    self.holds.clear()
                    sink.sendall(data[: len(data) // 2])
                    data = data[len(data) // 2 :]
                    self.goes_on.wait(10)
                sink.sendall(data)

    def close(self) -> None:
        self.goes_on.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()


@pytest.mark.parametrize("on_loop", [False, True])
def test_half_an_answer_costs_the_time_out_and_its_rest_answers_nobody(
    plan: Plan, redis_url: str, on_loop: bool
) -> None:
    first = EntityRequest("all", {"item_id": np.arange(100)})
    second = EntityRequest("all", {"item_id": np.arange(100, 200)})
    direct = ServiceReader(plan, redis_url)
    (wanted,) = direct.read([second], now_us=NOW)
    direct.close()
    with contextlib.closing(HoldingProxy(redis_url)) as proxy:
        if on_loop:
            asyncio.run(_hold_on_loop(plan, proxy, first, second, wanted))
            return
        reader = ServiceReader(plan, proxy.url, timeout_s=0.3)
        reader.read([first], now_us=NOW)
        proxy.holds.set()
        with pytest.raises(ServerError, match="TimeoutError"):
            reader.read([first], now_us=NOW)
        proxy.goes_on.set()
        for _ in range(3):
            assert_same(reader.read([second], now_us=NOW)[0], wanted)
        reader.close()


async def _hold_on_loop(
    plan: Plan,
    proxy: HoldingProxy,
    first: EntityRequest,
    second: EntityRequest,
    wanted: FeatureRows,
) -> None:
    reader = AsyncServiceReader(plan, proxy.url, timeout_s=0.3)
    await reader.read([first], now_us=NOW)
    proxy.holds.set()
    with pytest.raises(ServerError, match="TimeoutError"):
        await reader.read([first], now_us=NOW)
    proxy.goes_on.set()
    for _ in range(3):
        (found,) = await reader.read([second], now_us=NOW)
        assert_same(found, wanted)
    await reader.aclose()
