"""The skew audit on a real Redis: a clean run is equal, and each planted skew gets its name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis as redis_py

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.events.codec import encode
from recsys.events.event_columns import to_frame
from recsys.events.log import Record
from recsys.events.schema import Event, InteractionEvent
from recsys.features.audit.classify import Auditor, Judged, Verdict
from recsys.features.audit.cli import read_lines, report
from recsys.features.batch import UserFeatures
from recsys.features.hashes import MemoryHashes
from recsys.features.online import OnlineReader
from recsys.features.plan import Plan
from recsys.features.stream import FeatureStream
from recsys.feedback.exposure import Exposure, TensorRecord, encode_exposure
from recsys.feedback.logging_bundles import LoggingBundle
from recsys.models.encode import UserEncoding, encode_users
from tests.features.worlds import TOPICS, in_log, random_events, small_plan, vocabulary

pytestmark = pytest.mark.servers
T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
TTL_MS = 3 * HOUR_MS
LATER = T0 + 2 * DAY_MS
Log = list[tuple[Record, Event]]


def plan_with_ttl(project: str) -> Plan:
    """Give the small plan; a history is served for three hours."""
    plan = small_plan(project)
    views = tuple(
        msgspec.structs.replace(v, ttl_ms=TTL_MS) if v.name == "user_history" else v
        for v in plan.views
    )
    return msgspec.structs.replace(plan, views=views)


def arriving(events: list[Event], *, delay_ms: int = 0) -> Log:
    return [(r._replace(timestamp_ms=e.event_time_ms + delay_ms), e) for r, e in in_log(events)]


class World:
    """A store that was told a log, and the log."""

    def __init__(self, redis_url: str, log: Log, plan: Plan) -> None:
        self.plan, self.log = plan, log
        self.url = redis_url
        self.bundle = LoggingBundle(
            bundle_id="b",
            plan_schema_hash=plan.schema_hash,
            vocabulary=vocabulary(),
            encoding=UserEncoding(
                history_length=8,
                num_tokens=4,
                user_activity=plan.user_activity_names,
                num_categories=3,
                user_category_activity=plan.user_category_activity_names,
            ),
        )

    def served(self, user_id: str, at_ms: int, *, known: Log | None = None) -> UserFeatures:
        """Give what the online reader gives when the store was told ``known``."""
        hashes = MemoryHashes()
        stream = FeatureStream(self.plan, hashes, TOPICS)
        hashes.write(stream.apply(self.until(at_ms) if known is None else known)[0])
        client = redis_py.Redis.from_url(self.url)
        client.flushdb()
        for key, fields in hashes.content.items():
            client.hset(key, mapping=fields)
        client.close()
        reader = OnlineReader(self.plan, self.url)
        try:
            return reader.read_users([user_id], vocabulary=vocabulary(), now_ms=at_ms)
        finally:
            reader.close()

    def until(self, at_ms: int) -> Log:
        return [(r, e) for r, e in self.log if r.timestamp_ms <= at_ms]

    def exposure(self, user_id: str, features: UserFeatures, *, as_of_ms: int) -> Exposure:
        arrays = encode_users(features, self.bundle.encoding)
        return Exposure(
            request_id=f"r-{user_id}-{as_of_ms}", user_id=user_id, route="recommendations",
            now_ms=as_of_ms, bundle="b", rung="full", item_ids=[], scores=[],
            features=Exposure.tensors(arrays), features_as_of_ms=as_of_ms,
            request=msgspec.Raw(b"{}"),
        )  # fmt: skip

    def judge(self, *exposures: Exposure, log: Log | None = None) -> list[Judged]:
        frame = to_frame(self.log if log is None else log)
        return list(Auditor(frame, self.plan, {"b": self.bundle}).judge(exposures))


@pytest.fixture
def world(redis_url: str) -> World:
    events = random_events(
        np.random.default_rng(7), start_ms=T0, span_ms=DAY_MS // 2, num_events=200
    )
    return World(redis_url, arriving(events), plan_with_ttl("test"))


def verdicts(judged: list[Judged]) -> dict[Verdict, set[str]]:
    found: dict[Verdict, set[str]] = {}
    for j in judged:
        found.setdefault(j.verdict, set()).add(j.view)
    return found


def click(user_id: str, at_ms: int, *, arrived_ms: int | None = None) -> tuple[Record, Event]:
    event = InteractionEvent(
        event_id=f"{user_id}-{at_ms}", event_time_ms=at_ms, user_id=user_id, item_id="i4",
        type="click",
    )  # fmt: skip
    arrived = at_ms if arrived_ms is None else arrived_ms
    return Record(TOPICS.behaviour, 9, at_ms, user_id.encode(), encode(event), arrived), event


def test_a_clean_run_is_equal_in_every_feature(world: World) -> None:
    moments = [T0 + 7 * MINUTE_MS, T0 + 3 * HOUR_MS + 1, T0 + DAY_MS // 2 + 17, LATER]
    exposures = [
        world.exposure(user, world.served(user, at), as_of_ms=at)
        for at in moments
        for user in ("u0", "u3", "nobody")
    ]
    judged = world.judge(*exposures)
    assert {j.verdict for j in judged} == {Verdict.EQUAL}
    assert len(judged) == 12 * len({(j.view, j.feature) for j in judged})


def test_an_event_that_arrived_after_the_request_is_late(world: World) -> None:
    at = T0 + DAY_MS // 2
    exposure = world.exposure("u1", world.served("u1", at), as_of_ms=at)
    world.log.append(click("u1", at - 2 * MINUTE_MS, arrived_ms=at + 5_000))
    found = verdicts(world.judge(exposure))
    assert set(found) == {Verdict.EQUAL, Verdict.LATE_EVENT}
    assert found[Verdict.LATE_EVENT] >= {"user_activity", "user_history"}


def test_an_event_not_applied_yet_is_late(world: World) -> None:
    at = T0 + DAY_MS // 2
    before = world.until(at)
    world.log.append(click("u1", at - 50))
    exposure = world.exposure("u1", world.served("u1", at, known=before), as_of_ms=at)
    assert set(verdicts(world.judge(exposure))) == {Verdict.EQUAL, Verdict.LATE_EVENT}


def test_an_expired_value_that_was_served_is_ttl(world: World) -> None:
    at = T0 + DAY_MS // 2 + TTL_MS + MINUTE_MS
    world.log.append(click("u2", T0 + DAY_MS // 2))
    lasting = World(world.url, world.log, small_plan("test"))
    exposure = world.exposure("u2", lasting.served("u2", at), as_of_ms=at)
    found = verdicts(world.judge(exposure))
    assert set(found) == {Verdict.EQUAL, Verdict.TTL}
    assert found[Verdict.TTL] == {"user_history", "request_time"}


@pytest.mark.parametrize("restamped", [False, True], ids=["whole", "its moment renewed"])
def test_what_was_true_half_an_hour_ago_is_a_stale_cache(world: World, restamped: bool) -> None:
    at = T0 + DAY_MS // 2 + HOUR_MS
    world.log += [click("u0", at - 20 * MINUTE_MS), click("u0", at - 15 * MINUTE_MS)]
    old = world.served("u0", at - 31 * MINUTE_MS - 123)
    if restamped:
        old = replace(old, as_of_ms=np.array([at]))
    found = verdicts(world.judge(world.exposure("u0", old, as_of_ms=at)))
    assert set(found) == {Verdict.EQUAL, Verdict.STALE_CACHE}
    assert found[Verdict.STALE_CACHE] >= {"user_activity", "user_history"}


def test_a_stale_cache_of_a_busy_user_is_found_among_many_moments(world: World) -> None:
    at = T0 + DAY_MS // 2 + HOUR_MS
    world.log += [click("u0", at - 20 * MINUTE_MS + 1000 * k) for k in range(300)]
    old = replace(world.served("u0", at - 20 * MINUTE_MS + 77_500), as_of_ms=np.array([at]))
    found = verdicts(world.judge(world.exposure("u0", old, as_of_ms=at)))
    assert set(found) == {Verdict.EQUAL, Verdict.STALE_CACHE}


def test_features_of_another_plan_or_a_lost_bundle_are_of_another_version(world: World) -> None:
    at = T0 + DAY_MS // 2
    exposure = world.exposure("u0", world.served("u0", at), as_of_ms=at)
    lost = msgspec.structs.replace(exposure, bundle="gone")
    assert {j.verdict for j in world.judge(lost)} == {Verdict.VERSION}
    wider = msgspec.structs.replace(
        exposure,
        features=exposure.features
        | {"user_dense": TensorRecord.of(np.zeros((1, 3), dtype=np.float32))},
    )
    assert {j.verdict for j in world.judge(wider)} == {Verdict.VERSION}
    world.bundle = replace(world.bundle, plan_schema_hash="0" * 16)
    assert {j.verdict for j in world.judge(exposure)} == {Verdict.VERSION}


def test_a_corrupted_value_is_explained_by_nothing(world: World) -> None:
    at = T0 + DAY_MS // 2
    exposure = world.exposure("u0", world.served("u0", at), as_of_ms=at)
    dense = exposure.features["user_dense"].array().copy()
    dense[0, 3] += 1
    spoilt = msgspec.structs.replace(
        exposure, features=exposure.features | {"user_dense": TensorRecord.of(dense)}
    )
    odd = [j for j in world.judge(spoilt) if j.verdict is not Verdict.EQUAL]
    (one,) = odd
    assert (one.verdict, one.feature) == (
        Verdict.UNEXPLAINED, world.plan.user_activity_names[3],
    )  # fmt: skip
    assert float(one.served) == float(one.recomputed) + 1


def test_a_corrupted_value_beside_a_late_event_is_still_found(world: World) -> None:
    at = T0 + DAY_MS // 2
    exposure = world.exposure("u1", world.served("u1", at), as_of_ms=at)
    dense = exposure.features["user_dense"].array().copy()
    dense[0, 0] += 1000
    spoilt = msgspec.structs.replace(
        exposure, features=exposure.features | {"user_dense": TensorRecord.of(dense)}
    )
    world.log.append(click("u1", at - 2 * MINUTE_MS, arrived_ms=at + 5_000))
    judged = world.judge(spoilt)
    unexplained = [j.feature for j in judged if j.verdict is Verdict.UNEXPLAINED]
    assert unexplained == [world.plan.user_activity_names[0]]
    assert Verdict.LATE_EVENT in {j.verdict for j in judged}


def test_the_report_counts_by_feature(world: World, tmp_path: Path) -> None:
    at = T0 + DAY_MS // 2
    exposures = [world.exposure(u, world.served(u, at), as_of_ms=at) for u in ("u0", "u1")]
    lines = tmp_path / "exposures.jsonl"
    lines.write_bytes(b"\n".join(encode_exposure(e) for e in exposures))
    judged = world.judge(*read_lines(lines))
    document = report(judged)
    assert document["num_exposures"] == 2 and not document["examples"]
    assert document["total"] == Counter(equal=len(judged))
    assert document["features"]["user_history:item_ids"] == {"equal": 2}  # type: ignore[index]
