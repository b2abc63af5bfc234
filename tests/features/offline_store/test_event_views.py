"""Our own repository through Feast: at past moments it gives what the online reader gave then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis

from recsys.clock import DAY_MS, HOUR_MS
from recsys.errors import ConfigurationError, InputError
from recsys.events.log import Record, TopicPartition
from recsys.events.schema import Event, InteractionEvent, ItemEvent
from recsys.events.sink import EventSink
from recsys.features import names
from recsys.features import plan as plans
from recsys.features.current_plan import default_repository
from recsys.features.hashes import MemoryHashes
from recsys.features.history import ItemHistory, UserHistory, open_rows
from recsys.features.names import token_hashes
from recsys.features.online import OnlineReader
from recsys.features.plan import Plan
from recsys.features.stream import FeatureStream
from recsys.settings import Settings
from tests.features.worlds import TOPICS, assert_equal_users, in_log, random_events, vocabulary

# Feast warns about itself: streams are experimental, names of its own arguments are deprecated.
pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings("ignore")]
T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
SPAN_MS = 3 * DAY_MS
USERS = [*(f"u{k}" for k in range(5)), "nobody"]
ITEMS = [*(f"i{k}" for k in range(12)), "nothing"]
LATEST = T0 + 900 * DAY_MS
"""When every TTL has run out."""


def log_of_a_world() -> list[tuple[Record, Event]]:
    rng = np.random.default_rng(11)
    events = random_events(rng, start_ms=T0, span_ms=SPAN_MS, num_events=250, late_ms=HOUR_MS)
    return in_log(events, rng=rng)


@pytest.fixture(scope="module")
def own(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Plan, Settings]]:
    state = tmp_path_factory.mktemp("own")
    settings = Settings(RECSYS_STATE_DIR=state, RECSYS_NAMESPACE="test", REDIS_URL=redis_url)  # type: ignore[call-arg]
    before = dict(os.environ)
    from feast import FeatureStore

    from recsys.features import feast_repository

    log = log_of_a_world()
    sink = EventSink(
        settings.event_log_dir, sorted({TopicPartition(r.topic, r.partition) for r, _ in log})
    )
    sink.write(log)
    sink.close()
    try:
        feast_repository.apply(settings, default_repository())
        yield FeatureStore(str(default_repository())), plans.load(state / plans.PLAN_FILE), settings
    finally:
        os.environ.clear()
        os.environ.update(before)


def asked(store: Any, service: str, frame: pd.DataFrame, **options: Any) -> dict[str, list[Any]]:
    job = store.get_historical_features(
        frame, features=store.get_feature_service(service), full_feature_names=True, **options
    )
    return job.to_arrow().to_pydict()  # type: ignore[no-any-return]


def labels(moments: list[int]) -> pd.DataFrame:
    """Every user with every item and category of the world at every moment."""
    categories = ["tea", "mugs"]
    rows = [
        (user, ITEMS[k % len(ITEMS)], categories[k % 2], t)
        for t in moments
        for user in USERS
        for k in range(2 * len(ITEMS))
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "category", "as_of_ms"])
    frame["event_timestamp"] = pd.to_datetime(frame["as_of_ms"], unit="ms", utc=True)
    frame["last_interaction_ms"] = -1
    return frame


def matrix(answer: dict[str, list[Any]], plan: Plan, view: str) -> np.ndarray[Any, Any]:
    columns = [answer[f"{view}__{name}"] for name in plan.view(view).feature_names]
    return np.array(columns, dtype=np.float32).T


def counts_ms(record: Record, event: Event, *, knowledge: bool) -> int:
    """From when on an event has a part in answers."""
    return record.timestamp_ms if knowledge else min(event.event_time_ms, record.timestamp_ms)


@pytest.mark.parametrize("knowledge", [False, True])
def test_the_offline_plug_in_gives_what_the_online_reader_gave(
    own: tuple[Any, Plan, Settings], redis_url: str, knowledge: bool
) -> None:
    store, plan, settings = own
    moments = [T0 - 1, T0 + SPAN_MS // 2 + 7, T0 + SPAN_MS + 40 * HOUR_MS, LATEST]
    frame = labels(moments)
    answer = asked(store, "ranking_v1", frame, filter_by_created_timestamp=knowledge)
    assert answer["user_id"] == frame["user_id"].tolist()
    at = frame["as_of_ms"].to_numpy()
    category = vocabulary().categories.index
    for t in moments:
        rows = np.flatnonzero(at == t)
        known = [x for x in log_of_a_world() if counts_ms(*x, knowledge=knowledge) <= t]
        users, items, profiles = online(plan, known, redis_url, t)
        user = np.array([USERS.index(answer["user_id"][n]) for n in rows])
        item = np.array([ITEMS.index(answer["item_id"][n]) for n in rows])
        column = np.array([category(answer["category"][n]) for n in rows])
        for view, expected in (
            (names.USER_ACTIVITY, users.activity[user]),
            (names.ITEM_ACTIVITY, items.activity[item]),
            (names.USER_CATEGORY_ACTIVITY, users.category_activity[user, column]),
        ):
            found = matrix(answer, plan, view)[rows]
            np.testing.assert_array_equal(found, expected, err_msg=f"{view} at {t}", strict=True)
        for n, b in zip(rows.tolist(), user.tolist(), strict=True):
            tokens = answer["user_profile__tokens"][n]
            assert token_hashes(tokens or []).tolist() == users.token_hashes.row(b).tolist()
            for name in ("item_ids", "counts", "last_ms"):
                online_list = profiles[b][names.USER_HISTORY].values.get(name, [])
                assert answer[f"user_history__{name}"][n] == online_list, (name, USERS[b], t)
    if knowledge:
        return
    # And both are what training reads.
    log = open_rows(settings.event_log_dir, plan)
    last = np.full(len(USERS), moments[2])
    trained = UserHistory(log, plan, vocabulary()).features_at(USERS, last)
    known = [(r, e) for r, e in log_of_a_world() if e.event_time_ms <= moments[2]]
    users, items, _ = online(plan, known, redis_url, moments[2])
    assert_equal_users(users, trained)
    seen = ItemHistory(log, plan, vocabulary()).activity_at(ITEMS, moments[2])
    np.testing.assert_array_equal(items.activity, seen.activity)


def online(plan: Plan, log: list[tuple[Record, Event]], redis_url: str, t: int) -> Any:
    """Stream the log into an empty Redis, and read everyone at ``t``."""
    hashes = MemoryHashes()
    hashes.write(FeatureStream(plan, hashes, TOPICS).apply(log)[0])
    client: redis.Redis = redis.Redis.from_url(redis_url)
    for key, fields in hashes.content.items():
        client.hset(key, mapping=fields)  # type: ignore[arg-type]
    reader = OnlineReader(plan, redis_url)
    try:
        words = vocabulary()
        return (
            reader.read_users(USERS, vocabulary=words, now_ms=t),
            reader.read_items(ITEMS, now_ms=t),
            [reader.read_profile(user, vocabulary=words, now_ms=t) for user in USERS],
        )
    finally:
        reader.close()
        if hashes.content:
            client.delete(*hashes.content)
        client.close()


def test_what_was_received_later_is_left_out_when_asked(own: tuple[Any, Plan, Settings]) -> None:
    store, _, _ = own
    log = log_of_a_world()
    late = [(r, e) for r, e in log if e.event_time_ms < r.timestamp_ms]
    moments = sorted({(e.event_time_ms + r.timestamp_ms) // 2 for r, e in late})[::8]
    frame = labels(moments)
    answers = {
        knowledge: asked(store, "ranking_v1", frame, filter_by_created_timestamp=knowledge)
        for knowledge in (False, True)
    }
    differing = {name for name in answers[True] if answers[True][name] != answers[False][name]}
    assert differing >= {"user_activity__interactions_1h", "user_history__last_ms"}
    for knowledge, answer in answers.items():
        newest: dict[tuple[str, int], tuple[Any, ...]] = {}
        histories: dict[tuple[str, int], int] = {}
        for t in moments:
            seen: set[str] = set()
            for record, event in log:
                if counts_ms(record, event, knowledge=knowledge) > t:
                    continue
                at = min(event.event_time_ms, record.timestamp_ms)
                if isinstance(event, ItemEvent):
                    order = (at, record.topic, record.partition, record.offset)
                    said = (order, event.category, event.price)
                    before = newest.get((event.item_id, t), said)
                    newest[event.item_id, t] = max(said, before, key=lambda s: s[0])
                elif isinstance(event, InteractionEvent) and event.event_id not in seen:
                    seen.add(event.event_id)
                    key = (event.user_id, t)
                    histories[key] = max(at, histories.get(key, at))
        for user, item, t, last_ms, category, price in zip(
            *(answer[name] for name in ("user_id", "item_id", "as_of_ms")),
            answer["user_history__last_ms"],
            answer["item_profile__category"],
            answer["item_profile__price"],
            strict=True,
        ):
            assert (last_ms[-1] if last_ms else None) == histories.get((user, t))
            assert (category, price) == newest.get((item, t), (None, None, None))[1:]


def test_profiles_are_what_the_newest_event_by_effective_time_says(
    own: tuple[Any, Plan, Settings],
) -> None:
    store, _, _ = own
    middle = T0 + SPAN_MS // 2
    frame = labels([T0 - 2, T0 - 1, middle - 1, middle])
    answer = asked(store, "ranking_v1", frame)
    said = {
        (item, t): (title, category, price, born, available, tokens)
        for item, t, title, category, price, born, available, tokens in zip(
            answer["item_id"],
            answer["as_of_ms"],
            *(answer[f"item_profile__{n}"] for n in ("title", "category", "price", "born_ms")),
            *(answer[f"item_profile__{n}"] for n in ("available", "tokens")),
            strict=True,
        )
    }
    nothing = (None,) * 6
    assert said["i1", T0 - 2] == nothing and said["nothing", middle] == nothing
    assert said["i1", T0 - 1] == ("T i1", "mugs", 1.5, T0 - 1, True, ["k=1"])
    assert said["i1", middle - 1] == said["i1", T0 - 1]
    title, category, price, born, available, tokens = said["i0", middle + 0]
    moved = [r.timestamp_ms for r, e in log_of_a_world() if e.event_id == "moved-i0"]
    assert min(moved) >= middle - 100_000
    assert (title, available) == ("T i0", True)
    assert (category, price, tokens) in (("tea", None, ["k=0"]), ("mugs", None, []))
    assert born in (T0 - 1, *(min(middle, at) for at in moved))


def test_what_a_computed_view_cannot_answer_is_said(own: tuple[Any, Plan, Settings]) -> None:
    store, _, _ = own
    frame = labels([T0])
    with pytest.raises(InputError, match="wanted text in 'user_id'"):
        asked(store, "ranking_v1", frame.assign(user_id=1))
    with pytest.raises(InputError, match="pass entity_df"):
        store.get_historical_features(
            features=["user_activity:interactions_1h"],
            start_date=pd.Timestamp(T0, unit="ms", tz="UTC"),
            end_date=pd.Timestamp(T0 + 1, unit="ms", tz="UTC"),
        )


def test_an_empty_event_log_is_named(own: tuple[Any, Plan, Settings], tmp_path: Path) -> None:
    from recsys.features.offline_store.event_views import EventViews

    _, plan, _ = own
    views = EventViews(tmp_path, "test").of(plan.view(names.USER_ACTIVITY))
    with pytest.raises(ConfigurationError, match=r"wanted events of test\.behaviour"):
        views.at({"user_id": ["u"]}, np.array([T0]))
