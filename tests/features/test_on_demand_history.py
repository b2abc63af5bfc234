"""On-demand features over streamed views: training rows hold, to the bit, what serving computed."""

from __future__ import annotations

from itertools import groupby, product

import msgspec
import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from recsys.clock import DAY_MS
from recsys.errors import FeatureError, InputError
from recsys.events.event_columns import to_frame
from recsys.events.log import Record
from recsys.events.schema import InteractionEvent
from recsys.features.hashes import MemoryHashes
from recsys.features.log_rows import read_rows
from recsys.features.on_demand import OnDemandView
from recsys.features.on_demand_history import OnDemandHistory
from recsys.features.online import MemoryOnlineReader
from recsys.features.plan import Plan
from recsys.features.service_reader import EntityRequest, ServiceReader
from recsys.features.stream import FeatureStream
from tests.features.derived import keenness
from tests.features.generated_logs import SPANS, T0, Log, logs, of_examples
from tests.features.worlds import TOPICS, small_plan

USER, ITEM = (
    f"{view}:{small_plan().view(view).scalar_aggregates[0].name}"
    for view in ("user_activity", "item_activity")
)
KEEN = OnDemandView(
    name="keen",
    function="tests.features.derived:keenness",
    inputs=(USER, ITEM, "price", "as_of_ms"),
    outputs=("keen", "keen_now"),
    output_types=("float32", "float64"),
)
PLAN: Plan = msgspec.structs.replace(
    small_plan(), on_demand=(KEEN,), services={"s": (USER, "keen:keen", "keen:keen_now")}
)
PAIRS = list(product("xyz", "abc"))
KEYS = {"user_id": [user for user, _ in PAIRS], "item_id": [item for _, item in PAIRS]}
PRICES = np.linspace(0.1, 7.7, len(PAIRS))


@of_examples()
@given(logs(), st.sampled_from(SPANS))
def test_offline_is_what_online_was(log: Log, later_ms: int) -> None:
    hashes = MemoryHashes()
    stream, reader = FeatureStream(PLAN, hashes, TOPICS), MemoryOnlineReader(PLAN, hashes)
    history = OnDemandHistory(read_rows(to_frame(log)), PLAN, "keen")
    received = [list(some) for _, some in groupby(log, lambda one: one[0].timestamp_ms)]
    for n, some in enumerate(received):
        assert hashes.write(stream.apply(some)[0]) == []
        known_by = some[0][0].timestamp_ms
        t = known_by + (later_ms if n == len(received) - 1 else 0)
        online = reader.read_on_demand("keen", KEYS, {"price": PRICES}, now_ms=t)
        moments = np.full(len(PAIRS), t)
        known = np.full(len(PAIRS), known_by)
        offline = history.at(KEYS, moments, {"price": PRICES}, known_by_ms=known)
        assert [offline[name].dtype for name in KEEN.outputs] == [np.float32, np.float64]
        for name in KEEN.outputs:
            np.testing.assert_array_equal(offline[name], online[name], strict=True)
        # One row alone is no other than among many.
        alone = {key: ids[:1] for key, ids in KEYS.items()}
        one = reader.read_on_demand("keen", alone, {"price": PRICES[:1]}, now_ms=t)
        assert one["keen_now"].tolist() == online["keen_now"][:1].tolist()


def test_a_service_gives_what_the_function_gives_of_what_redis_holds(
    redis_url: str, namespace: str
) -> None:
    plan = msgspec.structs.replace(PLAN, project=namespace)
    log: Log = []
    for n, (user, item) in enumerate(PAIRS[:5]):
        event = InteractionEvent(
            event_id=f"{n}", event_time_ms=T0 + n, user_id=user, item_id=item, type="click", value=n
        )
        topic, key = TOPICS.route(event)
        log.append((Record(topic, 0, n, key, b"", T0 + n), event))
    hashes = MemoryHashes()
    hashes.write(FeatureStream(plan, hashes, TOPICS).apply(log)[0])
    client = redis.Redis.from_url(redis_url)
    for name, fields in hashes.content.items():
        client.hset(name, mapping=fields)
    reader = ServiceReader(plan, redis_url)
    now_us = (T0 + DAY_MS // 3) * 1000
    full, bare, only = reader.read(
        [
            EntityRequest("s", KEYS, {"price": PRICES}),
            EntityRequest("s", KEYS),
            EntityRequest("s", {"user_id": ["x"]}, {"price": [1.0]}),
        ],
        now_us=now_us,
    )
    reader.close()
    for name in hashes.content:
        client.delete(name)
    client.close()
    # The item's feature is read for the function alone, and not given.
    assert full.float_names == bare.float_names == only.float_names == (USER,)
    assert bare.columns == only.columns == {}
    assert np.isnan(full.floats[-1, 0])  # user z is unknown, so what is made of it is too
    wanted = keenness(
        full.floats[:, 0].astype(np.float64),
        np.array([2.0, 2.0, 1.0] * 3, np.float64),
        PRICES,
        np.full(len(PAIRS), now_us // 1000),
    )
    np.testing.assert_array_equal(full.column("keen:keen_now").values, wanted[:, 1])


def test_what_cannot_be_asked_is_named() -> None:
    reader = MemoryOnlineReader(PLAN, MemoryHashes())
    with pytest.raises(FeatureError, match=r'no on-demand view "kean" \(found keen\)'):
        reader.read_on_demand("kean", KEYS, {}, now_ms=T0)
    with pytest.raises(InputError, match="missing price"):
        reader.read_on_demand("keen", KEYS, {}, now_ms=T0)
    with pytest.raises(InputError, match="as many of each key"):
        reader.read_on_demand("keen", {**KEYS, "user_id": ["x"]}, {"price": PRICES}, now_ms=T0)
    with pytest.raises(InputError, match="one length"):
        reader.read_on_demand("keen", KEYS, {"price": [1.0]}, now_ms=T0)
    with pytest.raises(InputError, match="user_id"):
        reader.read_on_demand("keen", {"item_id": ["a"]}, {"price": [1.0]}, now_ms=T0)
    profile = msgspec.structs.replace(KEEN, inputs=("user_profile:tokens",))
    plan = msgspec.structs.replace(PLAN, on_demand=(profile,))
    with pytest.raises(FeatureError, match='found "user_profile"; read it through a feature ser'):
        MemoryOnlineReader(plan, MemoryHashes()).read_on_demand("keen", KEYS, {}, now_ms=T0)
