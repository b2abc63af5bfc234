"""The reader and the writer of services, on a real Redis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import FeatureError, InputError, ServerError
from recsys.features.column_writer import AsyncColumnWriter, ColumnWriter
from recsys.features.plan import Plan
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.client import RedisClient
from recsys.features.redis_hashes import connect
from recsys.features.row_packer import RowPacker
from recsys.features.service_reader import AsyncServiceReader, EntityRequest, ServiceReader
from recsys.features.time_layout import decode_timestamp_us
from recsys.features.value_columns import Mask
from recsys.features.view import View
from tests.features.online_store.views import plan_of, view_of
from tests.features.redis.redis_servers import Starter, launch_of, start_cluster, urls

pytestmark = pytest.mark.servers
NOW = 1_800_000_000_123_456
HOUR_US = 3_600_000_000
FLOATS = tuple(f"f{n}" for n in range(5))
ITEM = view_of("item", dict.fromkeys(FLOATS, "float32"), {"item_id": "int64"}, ttl_ms=3_600_000)
ITEM_TEXT = view_of("item_text", {"title": "string", "tags": "string_list"}, {"item_id": "int64"})
USER = view_of(
    "user",
    {"age": "int64", "vec": "float32_list", "score": "float32", "live": "bool", "w": "float64"},
    {"user": "string"},
    columns={"vec": ("a", "b", "c")},
)
PAIR = view_of("pair", {"n": "int32"}, {"user": "string", "item_id": "int64"})


@pytest.fixture
def plan(namespace: str, redis_url: str) -> Iterator[Plan]:
    services = {
        "ranking": (*(f"item:{f}" for f in reversed(FLOATS)), "item_text:title", "user:vec",
                    "user:score", "moment:hour"),
    }  # fmt: skip
    yield plan_of(namespace, ITEM, ITEM_TEXT, USER, PAIR, **services)
    with connect(redis_url) as client:
        for key in client.scan_iter(f"*{namespace}*"):
            client.delete(key)


@pytest.fixture
def client(redis_url: str) -> Iterator[RedisClient]:
    client = RedisClient(redis_url)
    yield client
    client.close()


def writer(client: RedisClient, view: View, plan: Plan, **options: Any) -> ColumnWriter:
    return ColumnWriter(client, RowPacker(view, plan.project, **options))


def write_items(client: RedisClient, plan: Plan, ids: list[int], at_us: list[int]) -> np.ndarray:
    floats = np.arange(len(ids) * 5, dtype=np.float32).reshape(len(ids), 5)
    columns = {name: floats[:, i] for i, name in enumerate(FLOATS)}
    result = writer(client, ITEM, plan).write({"item_id": ids}, columns, np.array(at_us))
    assert result.written == len(ids)
    return floats


def test_a_user_and_items_in_one_round_trip(
    plan: Plan, client: RedisClient, redis_url: str
) -> None:
    floats = write_items(client, plan, [1, 2, 3], [NOW, NOW - HOUR_US, NOW - HOUR_US - 1])
    writer(client, ITEM_TEXT, plan).write(
        {"item_id": [2, 3]}, {"title": ["zoë", None], "tags": [["x"], []]}, np.array([NOW, NOW])
    )
    writer(client, USER, plan).write(
        {"user": ["é"]},
        {"age": [-3], "vec": np.array([[1, 2, 3]]), "score": [0.5], "live": [False], "w": [1e300]},
        np.array([NOW]),
    )
    reader = ServiceReader(plan, redis_url)
    requests = [
        EntityRequest("ranking", {"user": ["é", "nobody"]}),
        EntityRequest("ranking", {"item_id": np.array([3, 1, 9, 2])}),
    ]
    user, items = reader.read(requests, now_us=NOW)
    assert items.float_names == tuple(f"item:{f}" for f in reversed(FLOATS))
    np.testing.assert_array_equal(items.floats[[1, 3]], floats[[0, 1]][:, ::-1])
    assert np.isnan(items.floats[[0, 2]]).all()
    assert items.views["item"].status.tolist() == [
        Mask.EXPIRED, Mask.PRESENT, Mask.MISSING, Mask.PRESENT
    ]  # fmt: skip
    assert items.views["item"].event_time_us.tolist() == [NOW - HOUR_US - 1, NOW, 0, NOW - HOUR_US]
    assert (items.float_mask == items.views["item"].status[:, None]).all()
    title = items.column("item_text:title")
    assert title.values.tolist() == [None, None, None, "zoë"]  # type: ignore[union-attr]
    assert title.mask.tolist() == [Mask.NULL, Mask.MISSING, Mask.MISSING, Mask.PRESENT]
    vector = user.column("user:vec")
    np.testing.assert_array_equal(vector.values[0], [1, 2, 3])  # type: ignore[index]
    assert vector.mask.tolist() == [Mask.PRESENT, Mask.MISSING]
    assert user.column("user:score").values[0] == 0.5  # type: ignore[index]
    with pytest.raises(InputError, match='wanted feature "user:age", found'):
        user.column("user:age")

    async def on_loop() -> None:
        twin = AsyncServiceReader(plan, redis_url)
        for ours, theirs in zip(await twin.read(requests, now_us=NOW), (user, items), strict=True):
            np.testing.assert_array_equal(ours.floats, theirs.floats)
            np.testing.assert_array_equal(ours.float_mask, theirs.float_mask)
            assert ours.columns.keys() == theirs.columns.keys()
        await twin.aclose()

    asyncio.run(on_loop())
    reader.close()


def test_all_views_of_composite_keys(plan: Plan, client: RedisClient, redis_url: str) -> None:
    writer(client, PAIR, plan).write(
        {"user": ["a", "a"], "item_id": [1, 2]}, {"n": [-7, None]}, np.array([NOW, NOW])
    )
    write_items(client, plan, [1], [NOW])
    reader = ServiceReader(plan, redis_url)
    (rows,) = reader.read(
        [EntityRequest("all", {"user": ["a", "a", "b"], "item_id": [1, 2, 1]})], now_us=NOW
    )
    assert rows.views.keys() == {"item", "item_text", "user", "pair"}
    assert rows.column("pair:n").values.tolist() == [-7, 0, 0]  # type: ignore[union-attr]
    assert rows.column("pair:n").mask.tolist() == [Mask.PRESENT, Mask.NULL, Mask.MISSING]
    assert rows.column("item:f1").mask.tolist() == [Mask.PRESENT, Mask.MISSING, Mask.PRESENT]
    (empty,) = reader.read([EntityRequest("all", {"item_id": []})], now_us=NOW)
    assert empty.floats.shape == (0, 5)
    reader.close()


def test_what_cannot_be_asked_is_named(plan: Plan, redis_url: str) -> None:
    reader = ServiceReader(plan, redis_url)
    with pytest.raises(InputError, match=r'no service "nothing" \(found all, ranking\)'):
        reader.read([EntityRequest("nothing", {"user": ["a"]})], now_us=NOW)
    with pytest.raises(InputError, match=r"the join keys of one of its views \(item_id; user\)"):
        reader.read([EntityRequest("ranking", {"users": ["a"]})], now_us=NOW)
    reader.close()


def test_a_value_of_another_type_is_named(plan: Plan, client: RedisClient, redis_url: str) -> None:
    write_items(client, plan, [1], [NOW])
    with connect(redis_url) as raw:
        (key,) = raw.scan_iter(f"*{plan.project}")
        raw.hset(key, ITEM.feature("f2").field_bytes, b"\x20\x05")
        reader = ServiceReader(plan, redis_url)
        with pytest.raises(FeatureError, match="wanted a Feast value of type float32"):
            reader.read([EntityRequest("ranking", {"item_id": [1]})], now_us=NOW)
        raw.hdel(key, ITEM.feature("f2").field_bytes)  # a column added later
        (rows,) = reader.read([EntityRequest("ranking", {"item_id": [1]})], now_us=NOW)
        assert rows.column("item:f2").mask.tolist() == [Mask.MISSING]
        assert rows.column("item:f1").mask.tolist() == [Mask.PRESENT]
        reader.close()


def test_newer_wins_and_a_correction_arrives(
    plan: Plan, client: RedisClient, redis_url: str
) -> None:
    writes = writer(client, PAIR, plan)
    keys = {"user": ["a"] * 4, "item_id": [1] * 4}
    result = writes.write(keys, {"n": [1, 2, 3, 4]}, np.array([NOW, NOW + 1, NOW - 1, NOW + 1]))
    assert (result.written, result.refused.tolist()) == (3, [2])

    def stored() -> int:
        reader = ServiceReader(plan, redis_url)
        (rows,) = reader.read(
            [EntityRequest("all", {k: v[:1] for k, v in keys.items()})], now_us=NOW
        )
        reader.close()
        return int(rows.column("pair:n").values[0])  # type: ignore[index]

    assert stored() == 4
    one = {k: v[:1] for k, v in keys.items()}
    assert writes.write(one, {"n": [9]}, np.array([NOW])).refused.tolist() == [0]
    assert writes.write(one, {"n": [9]}, np.array([NOW + 1])).written == 1
    assert stored() == 9
    keeps = writer(client, PAIR, plan, ties="keep")
    assert keeps.write(one, {"n": [10]}, np.array([NOW + 1])).written == 0
    assert keeps.write(one, {"n": [10]}, np.array([NOW + 2])).written == 1


@pytest.mark.parametrize("interruption", ["none", "script flush", "kill"])
def test_a_large_batch_is_sent_in_parts_and_says_of_each_row_what_became_of_it(
    plan: Plan, client: RedisClient, redis_url: str, interruption: str
) -> None:
    """Every seventh row is older than what is stored; scripts and connections may be gone."""
    writes = writer(client, PAIR, plan)
    count = 9_000
    numbers = np.arange(count)
    keys = {"user": ["u"] * count, "item_id": numbers}
    some = numbers % 7 == 0
    part = {"user": ["u"] * int(some.sum()), "item_id": numbers[some]}
    writes.write(part, {"n": numbers[some] * 0 - 1}, np.full(int(some.sum()), NOW + 1))
    with connect(redis_url) as raw:
        if interruption == "script flush":
            raw.script_flush()
        if interruption == "kill":
            raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    result = writes.write(keys, {"n": numbers}, np.full(count, NOW))
    assert (result.written, result.refused.tolist()) == (
        count - int(some.sum()),
        numbers[some].tolist(),
    )
    reader = ServiceReader(plan, redis_url)
    (rows,) = reader.read([EntityRequest("all", keys)], now_us=NOW + 1)
    reader.close()
    assert rows.column("pair:n").values.tolist() == np.where(some, -1, numbers).tolist()


moments = st.one_of(
    st.integers(NOW - 3, NOW + 3),
    st.sampled_from([-1, 0, 1, 999_999, 1_000_000, -1_000_000, 2**28 * 10**6, -(2**40) * 10**3]),
    st.integers(-(10**16), 10**17),
)


@given(times=st.lists(moments, min_size=1, max_size=12), chunk=st.integers(1, 5))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60,
)
def test_whatever_the_order_the_last_of_the_newest_stays(
    times: list[int], chunk: int, plan: Plan, client: RedisClient, redis_url: str
) -> None:
    writes = writer(client, PAIR, plan)
    with connect(redis_url) as raw:
        for key in raw.scan_iter(f"*{plan.project}"):
            raw.delete(key)
        for at in range(0, len(times), chunk):
            part = times[at : at + chunk]
            numbers = list(range(at, at + len(part)))
            keys = {"user": ["u"] * len(part), "item_id": [7] * len(part)}
            writes.write(keys, {"n": numbers}, np.array(part))
        (key,) = raw.scan_iter(f"*{plan.project}")
        found = raw.hgetall(key)
    newest = max(times)
    last = max(i for i, time in enumerate(times) if time == newest)
    assert decode_timestamp_us(found[PAIR.timestamp_field]) == newest
    assert found[PAIR.feature("n").field_bytes] == b"\x18" + bytes((last,))


def test_many_writers_leave_the_newest(plan: Plan, redis_url: str) -> None:
    rng = np.random.default_rng(7)
    ids = np.arange(300)
    floats = np.zeros((300, 5), dtype=np.float32)

    def write(number: int) -> None:
        client = RedisClient(redis_url)
        for step in rng.permutation(20).tolist():
            values = {name: floats[:, i] + step for i, name in enumerate(FLOATS)}
            writer(client, ITEM, plan).write({"item_id": ids}, values, np.full(300, NOW + step))
        client.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = ServiceReader(plan, redis_url)
    (rows,) = reader.read([EntityRequest("ranking", {"item_id": ids})], now_us=NOW)
    assert (rows.floats == 19).all()
    reader.close()


def test_hashes_may_be_given_a_time_to_live(
    plan: Plan, client: RedisClient, redis_url: str
) -> None:
    keys = {"user": ["a"], "item_id": [1]}
    writer(client, PAIR, plan, key_ttl_s=100).write(keys, {"n": [1]}, np.array([NOW]))
    with connect(redis_url) as raw:
        (key,) = raw.scan_iter(f"*{plan.project}")
        assert 90 < raw.ttl(key) <= 100


@pytest.mark.parametrize("num_features", [1, 40, 41, 3_900])
def test_rows_may_have_any_number_of_features(
    num_features: int, plan: Plan, client: RedisClient, redis_url: str
) -> None:
    names = [f"f{n}" for n in range(num_features)]
    view = view_of("wide", dict.fromkeys(names, "int64"), {"item_id": "int64"})
    writes = writer(client, view, plan)
    for time_us, value, written in ((NOW, 7, 2), (NOW - 1, 8, 0), (NOW + 1, 9, 2)):
        columns = {name: [value + n, -n] for n, name in enumerate(names)}
        result = writes.write({"item_id": [1, 2]}, columns, np.full(2, time_us))
        assert result.written == written
    reader = ServiceReader(plan_of(plan.project, view), redis_url)
    (rows,) = reader.read([EntityRequest("all", {"item_id": [2, 1]})], now_us=NOW)
    found = np.stack([rows.columns[f"wide:{name}"].values for name in names])
    wanted = [[-n, 9 + n] for n in range(num_features)]
    np.testing.assert_array_equal(found, wanted)
    reader.close()


def test_a_forgotten_script_is_sent_again(plan: Plan, client: RedisClient, redis_url: str) -> None:
    write_items(client, plan, list(range(120)), [NOW] * 120)
    with connect(redis_url) as raw:
        raw.script_flush()

    async def on_loop() -> None:
        twin = AsyncRedisClient(redis_url)
        columns = {name: [1.0, None] for name in FLOATS}
        packer = RowPacker(ITEM, plan.project)
        result = await AsyncColumnWriter(twin, packer).write(
            {"item_id": [1, 2]}, columns, np.array([NOW, NOW - 1])
        )
        assert (result.written, result.refused.tolist()) == (1, [1])
        await twin.aclose()

    asyncio.run(on_loop())


def test_columns_that_do_not_fit_write_nothing(
    plan: Plan, client: RedisClient, redis_url: str
) -> None:
    writes = writer(client, PAIR, plan)
    keys = {"user": ["a"], "item_id": [1]}
    for columns, times, message in (
        ({}, [NOW], "wanted the columns n; found "),
        ({"n": [1], "m": [2]}, [NOW], "found n, m"),
        ({"n": [1, 2]}, [NOW], r"wanted 1 rows, .* found \{'n': 2"),
        ({"n": ["x"]}, [NOW], 'feature "n": wanted int32 values'),
    ):
        with pytest.raises(InputError, match=message):
            writes.write(keys, columns, np.array(times))
    with connect(redis_url) as raw:
        assert list(raw.scan_iter(f"*{plan.project}")) == []


def test_a_full_server_refuses_by_name_and_takes_the_batch_later(
    plan: Plan, own_server: Starter, tmp_path: Path
) -> None:
    launch = launch_of(tmp_path)
    own_server(launch)
    client = RedisClient(launch.address)
    with connect(launch.address) as raw:
        raw.config_set("maxmemory", 1)
        with pytest.raises(ServerError, match="OOM"):
            write_items(client, plan, [1, 2], [NOW, NOW])
        assert list(raw.scan_iter()) == []
        raw.config_set("maxmemory", 0)
        write_items(client, plan, [1, 2], [NOW, NOW])
        assert len(list(raw.scan_iter())) == 2
    client.close()


def test_a_cluster_is_written_and_read(plan: Plan, own_server: Starter, tmp_path: Path) -> None:
    url = urls(start_cluster(own_server, tmp_path))
    client = RedisClient(url)
    ids = list(range(400))
    floats = write_items(client, plan, ids, [NOW] * 400)
    assert (
        writer(client, ITEM, plan)
        .write({"item_id": ids}, dict.fromkeys(FLOATS, floats[:, 0]), np.full(400, NOW - 1))
        .refused.tolist()
        == ids
    )
    reader = ServiceReader(plan, url)
    (rows,) = reader.read([EntityRequest("ranking", {"item_id": ids})], now_us=NOW)
    np.testing.assert_array_equal(rows.floats, floats[:, ::-1])
    reader.close()
    client.close()


def test_another_project_is_another_world(plan: Plan, client: RedisClient, redis_url: str) -> None:
    write_items(client, plan, [1], [NOW])
    other = ServiceReader(plan_of("x" + plan.project, ITEM), redis_url)
    (rows,) = other.read([EntityRequest("all", {"item_id": [1]})], now_us=NOW)
    assert rows.views["item"].status.tolist() == [Mask.MISSING]
    other.close()
    assert isinstance(client, RedisClient)
    with redis.Redis.from_url(redis_url) as raw:
        assert raw.ping()
