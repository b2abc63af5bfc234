"""What the online reader answers: the same over Redis, on an event loop and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from recsys.clock import DAY_MS, HOUR_MS
from recsys.data.vocabulary import Vocabulary
from recsys.errors import FeatureError, ServerError
from recsys.events.log import Record
from recsys.events.schema import Event, InteractionEvent, ItemEvent, UserEvent
from recsys.features import names
from recsys.features.entities import layout_of
from recsys.features.hashes import MemoryHashes
from recsys.features.key_layout import EntityKeys, project_of_key
from recsys.features.online import (
    AsyncOnlineReader,
    MemoryOnlineReader,
    OnlineFeatures,
    OnlineReader,
)
from recsys.features.plan import Plan
from recsys.features.progress import StoredProgress
from recsys.features.redis_hashes import AsyncRedisHashes
from recsys.features.stream import FeatureStream
from recsys.features.view_record import Status
from tests.features.worlds import TOPICS, assert_equal_users, small_plan, vocabulary

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS


class OnALoop:
    """The asynchronous reader behind the blocking protocol."""

    def __init__(self, reader: AsyncOnlineReader, runner: asyncio.Runner) -> None:
        self._reader = reader
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._reader, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))


def stored(plan: Plan) -> MemoryHashes:
    events: list[Event] = [
        ItemEvent(event_id="i1", event_time_ms=T0, item_id="i1", category="tea"),
        ItemEvent(event_id="i2", event_time_ms=T0, item_id="i2", category="mugs"),
        UserEvent(event_id="u1", event_time_ms=T0, user_id="u1", attributes={"country": "FR"}),
        UserEvent(event_id="u2", event_time_ms=T0, user_id="u2"),
    ]
    events += [
        InteractionEvent(
            event_id=f"c{n}", event_time_ms=T0 + n, user_id="u1", item_id=item, type="click"
        )
        for n, item in enumerate(["i1", "i2", "i1", "unknown"])
    ]
    log = [(Record(TOPICS.route(e)[0], 0, n, None, b"", T0 + n), e) for n, e in enumerate(events)]
    hashes = MemoryHashes()
    hashes.write(FeatureStream(plan, hashes, TOPICS).apply(log)[0])
    for namespace, layout in ((plan.project, layout_of([plan])), ("moved", "0-1-2-3")):
        hashes.write([StoredProgress(hashes, namespace).fields({}, {}, layout)])
    return hashes


@pytest.fixture(
    params=["memory", *(pytest.param(p, marks=pytest.mark.servers) for p in ("redis", "async"))]
)
def reader(request: pytest.FixtureRequest, namespace: str) -> Iterator[OnlineFeatures]:
    plan = small_plan(namespace)  # the server has others' hashes, too
    hashes = stored(plan)
    if request.param == "memory":
        yield MemoryOnlineReader(plan, hashes)
        return
    url = request.getfixturevalue("redis_url")
    client: redis.Redis = redis.Redis.from_url(url)
    for key, fields in hashes.content.items():
        client.hset(key, mapping=fields)  # type: ignore[arg-type]
    try:
        if request.param == "redis":
            blocking = OnlineReader(plan, url)
            yield blocking
            blocking.close()
        else:
            with asyncio.Runner() as runner:
                hashes_of_redis = AsyncRedisHashes(url, from_replicas=True)
                reader = AsyncOnlineReader(plan, hashes_of_redis)
                yield OnALoop(reader, runner)  # type: ignore[misc]
                runner.run(hashes_of_redis.aclose())
    finally:
        client.delete(*hashes.content)
        client.close()


def test_known_and_unknown_users(reader: OnlineFeatures) -> None:
    found = reader.read_users(["u1", "nobody", "u2"], vocabulary=vocabulary(), now_ms=T0 + 10)
    assert found.known.tolist() == [True, False, True]
    ids = vocabulary().ids(found.history_index.row(0).tolist())
    assert ids == ["i2", "i1"], "least recent first, items outside the vocabulary left out"
    assert found.history_count.row(0).tolist() == [1, 2]
    assert found.history_last_ms.row(0).tolist() == [T0 + 1, T0 + 2]
    assert found.history_index.row(1).size == 0
    assert not found.activity[1:].any()
    assert found.token_hashes.row(0).tolist() == names.token_hashes(["country=FR"]).tolist()
    tea, mugs = 1, 2
    assert found.category_activity[0, tea].max() == 2
    assert found.category_activity[0, mugs].max() == 1
    assert not found.category_activity[0, 0].any(), "no category is no category"


def test_nobody_asked_for(reader: OnlineFeatures) -> None:
    found = reader.read_users([], vocabulary=vocabulary(), now_ms=T0)
    assert len(found) == 0
    assert found.category_activity.shape[:2] == (0, 3)
    assert len(reader.read_items([], now_ms=T0).known) == 0


def test_windows_fall_while_nothing_is_written(reader: OnlineFeatures) -> None:
    plan = small_plan()
    column = plan.user_activity_names.index(f"interaction_count_{HOUR_MS}_300000")
    counts = [
        float(reader.read_users(["u1"], vocabulary=vocabulary(), now_ms=t).activity[0, column])
        for t in (T0 + 10, T0 + HOUR_MS - 1, T0 + HOUR_MS)
    ]
    assert counts == [4.0, 4.0, 0.0]
    item = reader.read_items(["i1", "nothing"], now_ms=T0 + HOUR_MS)
    assert item.known.tolist() == [True, False]


def test_what_happens_later_is_not_known_yet(reader: OnlineFeatures) -> None:
    found = reader.read_users(["u1"], vocabulary=vocabulary(), now_ms=T0 + 1)
    assert vocabulary().ids(found.history_index.row(0).tolist()) == ["i1", "i2"]
    assert found.history_count.row(0).tolist() == [1, 1]


def test_a_profile_for_humans(reader: OnlineFeatures) -> None:
    profile = reader.read_profile("u1", vocabulary=vocabulary(), now_ms=T0 + 10)
    assert profile["user_profile"].values == {"tokens": ["country=FR"]}
    assert profile["user_profile"].age_ms == 10
    assert profile["user_history"].values["item_ids"] == ["i2", "i1", "unknown"]
    assert profile["user_category_activity/tea"].status is Status.PRESENT
    assert profile["user_activity"].values[f"interaction_count_{HOUR_MS}_300000"] == 4.0
    nobody = reader.read_profile("nobody", vocabulary=vocabulary(), now_ms=T0)
    assert {record.status for record in nobody.values()} == {Status.MISSING}
    old = reader.read_profile("u1", vocabulary=vocabulary(), now_ms=T0 + 30 * DAY_MS)
    assert old["user_activity"].status is Status.EXPIRED
    assert old["user_activity"].values == {}
    assert old["user_profile"].status is Status.PRESENT


def test_features_of_another_layout_or_project_are_noticed(
    reader: OnlineFeatures, namespace: str
) -> None:
    reader.check_layout(namespace)
    with pytest.raises(FeatureError, match=r"wanted .* found 0-1-2-3 .* run `recsys train`"):
        reader.check_layout("moved")
    with pytest.raises(FeatureError, match='found a store written for "elsewhere"'):
        reader.check_layout("elsewhere")


def test_another_declaration_gives_another_layout() -> None:
    plan = small_plan()
    wider = msgspec.structs.replace(
        plan,
        views=tuple(
            msgspec.structs.replace(
                v,
                aggregates=(
                    *v.aggregates,
                    msgspec.structs.replace(v.aggregates[0], window_ms=400 * DAY_MS),
                ),
            )
            if v.name == names.USER_ACTIVITY
            else v
            for v in plan.views
        ),
    )
    hashes = stored(plan)
    MemoryOnlineReader(plan, hashes).check_layout(plan.project)
    with pytest.raises(FeatureError, match="other declarations"):
        MemoryOnlineReader(wider, hashes).check_layout(plan.project)
    MemoryOnlineReader(wider, MemoryHashes()).check_layout(plan.project)  # nothing ever written


def test_a_view_is_gone_after_its_ttl() -> None:
    plan = small_plan()
    short = msgspec.structs.replace(
        plan,
        views=tuple(
            msgspec.structs.replace(v, ttl_ms=HOUR_MS)
            if v.name in (names.USER_ACTIVITY, names.USER_HISTORY, names.ITEM_ACTIVITY)
            else v
            for v in plan.views
        ),
    )
    reader = MemoryOnlineReader(short, stored(plan))
    at_edge = reader.read_users(["u1"], vocabulary=vocabulary(), now_ms=T0 + 3 + HOUR_MS)
    after = reader.read_users(["u1"], vocabulary=vocabulary(), now_ms=T0 + 4 + HOUR_MS)
    assert at_edge.activity.any()
    assert at_edge.history_index.values.size == 2
    assert not after.activity.any()
    assert after.history_index.values.size == 0
    assert after.known.all(), "still on record"
    assert not reader.read_items(["i1"], now_ms=T0 + 3 + HOUR_MS).activity.any()


def test_offline_and_online_agree_about_ttl() -> None:
    from recsys.events.event_columns import to_frame
    from recsys.features.history import UserHistory

    plan = small_plan()
    short = msgspec.structs.replace(
        plan, views=tuple(msgspec.structs.replace(v, ttl_ms=HOUR_MS) for v in plan.views)
    )
    events: list[Event] = [
        InteractionEvent(
            event_id=f"c{n}", event_time_ms=T0 + n * 50 * 60_000, user_id="u1",
            item_id=f"i{n}", type="click",
        )
        for n in range(3)
    ]  # fmt: skip
    log = [(Record(TOPICS.behaviour, 0, n, None, b"", 0), e) for n, e in enumerate(events)]
    offline = UserHistory(to_frame(log), short, vocabulary())
    for t in range(T0, T0 + 5 * HOUR_MS, 7 * 60_000):
        hashes = MemoryHashes()
        known = [(r, e) for r, e in log if e.event_time_ms <= t]
        hashes.write(FeatureStream(short, hashes, TOPICS).apply(known)[0])
        online = MemoryOnlineReader(short, hashes)
        # An ItemEvent was never sent: the category is empty on both sides.
        assert_equal_users(
            online.read_users(["u1"], vocabulary=vocabulary(), now_ms=t),
            offline.features_at(["u1"], np.array([t])),
        )


def test_bytes_of_another_type_are_named() -> None:
    plan = small_plan()
    hashes = stored(plan)
    key = EntityKeys(plan.view(names.USER_PROFILE), plan.project).of("u1")
    field = plan.view(names.USER_PROFILE).feature("tokens").field_bytes
    hashes.content[key][field] = b"\x20\x05"
    with pytest.raises(FeatureError, match="wanted a Feast value of type string_list"):
        MemoryOnlineReader(plan, hashes).read_users(["u1"], vocabulary=vocabulary(), now_ms=T0)


def test_no_redis_is_a_server_error() -> None:
    reader = OnlineReader(small_plan(), "redis://user:secret@127.0.0.1:1/0", timeout_s=0.2)
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:1/0.*recsys status") as caught:
        reader.read_items(["i1"], now_ms=T0)
    assert "secret" not in str(caught.value)


def test_a_key_names_its_project() -> None:
    view = small_plan().view(names.USER_CATEGORY_ACTIVITY)
    assert project_of_key(EntityKeys(view, "shop").of("tea", "zoë")) == "shop"
    for other in (b"", b"shop:features:lease", b"\x01\x00\x00\x00", b"\xff" * 20):
        assert project_of_key(other) is None


def test_one_vocabulary_may_not_hold_two_items_of_one_hash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from recsys.errors import InputError
    from recsys.features import vocabulary_hashes

    monkeypatch.setattr(
        vocabulary_hashes, "identity_hashes", lambda ids: np.zeros(len(ids), dtype=np.int64)
    )
    with pytest.raises(InputError, match="have one hash"):
        vocabulary_hashes.rows_of_hashes(Vocabulary(("a", "b"), ()), np.zeros(1, dtype=np.int64))
