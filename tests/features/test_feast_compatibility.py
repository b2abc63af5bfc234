"""Our bytes are Feast's bytes: the SDK reads what we write, and we read what the SDK writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from recsys.clock import DAY_MS, HOUR_MS
from recsys.events.codec import encode
from recsys.events.log import Record
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent, ItemEvent, UserEvent
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features import plan as plans
from recsys.features.hashes import MemoryHashes
from recsys.features.layout import EntityKeys, decode_value
from recsys.features.online import OnlineReader
from recsys.features.packed_fields import PackedFields, pack_scalars
from recsys.features.plan import Plan, default_repository
from recsys.features.request_time import REQUEST_TIME_FEATURES, request_time
from recsys.features.stream import FeatureStream
from recsys.settings import Settings
from tests.features.worlds import small_plan, vocabulary
from tests.servers import free_ports

# Feast warns about itself: streams are experimental, names of its own arguments are deprecated.
pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings("ignore")]
T0 = 1_700_000_000_000 // DAY_MS * DAY_MS


@pytest.fixture(scope="module")
def applied(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Plan, redis.Redis]]:
    state = tmp_path_factory.mktemp("feast")
    settings = Settings(RECSYS_STATE_DIR=state, RECSYS_NAMESPACE="feastcheck", REDIS_URL=redis_url)  # type: ignore[call-arg]
    before = dict(os.environ)
    client: redis.Redis = redis.Redis.from_url(redis_url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore

        from recsys.features import feast_repository

        feast_repository.apply(settings, default_repository())
        store = FeatureStore(str(default_repository()))
        yield store, plans.load(state / plans.PLAN_FILE), client
    os.environ.clear()
    os.environ.update(before)
    for key in client.scan_iter(match="*feastcheck"):
        client.delete(key)
    client.close()


def events() -> list[Event]:
    made: list[Event] = [
        ItemEvent(
            event_id="i1", event_time_ms=T0 + 5, item_id="i1", title="Tasse à thé", category="tea",
            price=2.5, attributes={"colour": "bleu"},
        ),
        ItemEvent(event_id="i2", event_time_ms=T0, item_id="i2", available=False, born_ms=0),
        UserEvent(event_id="u", event_time_ms=T0, user_id="zoë", attributes={"country": "FR"}),
        ImpressionEvent(
            event_id="s", event_time_ms=T0 + 1, user_id="zoë", request_id="r", items=["i1", "i2"]
        ),
    ]  # fmt: skip
    made += [
        InteractionEvent(
            event_id=f"a{n}", event_time_ms=T0 + HOUR_MS + n, user_id="zoë",
            item_id=f"i{1 + n % 2}", type="click", value=0.5 + n,
        )
        for n in range(3)
    ]  # fmt: skip
    return made


def written(plan: Plan) -> dict[bytes, dict[bytes, bytes]]:
    topics = Topics(namespace=plan.project)
    batch = [
        (Record(topics.route(e)[0], 0, n, None, encode(e), 0), e) for n, e in enumerate(events())
    ]
    hashes = MemoryHashes()
    hashes.write(FeatureStream(plan, hashes, topics).apply(batch)[0])
    return hashes.content


def test_the_sdk_reads_what_we_write(applied: tuple[Any, Plan, redis.Redis]) -> None:
    store, plan, client = applied
    for key, fields in written(plan).items():
        client.hset(key, mapping=fields)
    user = store.get_online_features(
        features=[f for f in plan.services["retrieval_v1"] if not f.startswith("request_time")],
        entity_rows=[{"user_id": "zoë", "category": "tea"}, {"user_id": "nobody", "category": "x"}],
        full_feature_names=True,
    ).to_dict()
    first = {name: values[0] for name, values in user.items()}
    assert first["user_profile__tokens"] == ["country=FR"]
    assert first["user_activity__interactions_1h"] == 3.0
    assert first["user_activity__impressions_1d"] == 2.0
    assert first["user_activity__value_mean_90d"] == 1.5
    assert first["user_history__item_ids"] == ["i2", "i1"]
    assert first["user_history__counts"] == [1, 2]
    assert first["user_history__last_ms"] == [T0 + HOUR_MS + 1, T0 + HOUR_MS + 2]
    assert first["user_category_activity__interactions_7d"] == 2.0
    assert user["user_activity__interactions_1h"][1] is None
    items = store.get_online_features(
        features=[f for f in plan.services["ranking_v1"] if f.startswith("item_")],
        entity_rows=[{"item_id": "i1"}, {"item_id": "i2"}],
        full_feature_names=True,
    ).to_dict()
    assert items["item_profile__title"] == ["Tasse à thé", ""]
    assert items["item_profile__price"] == [2.5, None]
    assert items["item_profile__born_ms"] == [T0 + 5, 0]
    assert items["item_profile__available"] == [True, False]
    assert items["item_profile__tokens"] == [["colour=bleu"], []]
    assert items["item_activity__interactions_1h"] == [2.0, 1.0]
    assert items["item_activity__value_sum_30d"] == [3.0, 1.5]


def test_a_feature_service_with_request_time_features_is_served_by_the_sdk(
    applied: tuple[Any, Plan, redis.Redis],
) -> None:
    store, plan, client = applied
    for key, fields in written(plan).items():
        client.hset(key, mapping=fields)
    moment, last = T0 + 5 * HOUR_MS, T0 + HOUR_MS
    row = {"user_id": "zoë", "category": "tea", "as_of_ms": moment, "last_interaction_ms": last}
    answer = store.get_online_features(
        features=store.get_feature_service("retrieval_v1"),
        entity_rows=[row],
        full_feature_names=True,  # views share names such as interactions_7d
    ).to_dict()
    expected = request_time(np.array([moment]), np.array([last]))[0]
    for name, value in zip(REQUEST_TIME_FEATURES, expected.tolist(), strict=True):
        assert answer[f"request_time__{name}"] == [pytest.approx(value)]


def test_our_profile_bytes_are_those_the_sdk_writes(
    applied: tuple[Any, Plan, redis.Redis],
) -> None:
    import pandas as pd

    store, plan, client = applied
    ours = written(plan)
    reader = OnlineReader(plan, client_url(client))
    for view, key_column, rows in (
        (
            "item_profile",
            "item_id",
            [
                ("i1", T0 + 5, {"title": "Tasse à thé", "category": "tea", "price": 2.5,
                  "born_ms": T0 + 5, "available": True, "tokens": ["colour=bleu"]}),
                ("i2", T0, {"title": "", "category": "", "price": None, "born_ms": 0,
                  "available": False, "tokens": []}),
            ],
        ),
        ("user_profile", "user_id", [("zoë", T0, {"tokens": ["country=FR"]})]),
    ):  # fmt: skip
        for identity, at_ms, values in rows:
            key = EntityKeys(plan.view(view), plan.project).of(identity)
            client.delete(key)
            frame = pd.DataFrame(
                [{key_column: identity, **values,
                  "event_timestamp": datetime.fromtimestamp(at_ms / 1000, UTC),
                  "created": datetime.fromtimestamp(at_ms / 1000, UTC)}]
            )  # fmt: skip
            store.write_to_online_store(view, frame)
            theirs = client.hgetall(key)
            mine = {field: ours[key][field] for field in theirs}  # type: ignore[union-attr]
            assert mine == theirs
    found = reader.read_users(["zoë", "nobody"], vocabulary=vocabulary(), now_ms=T0 + 1)
    assert found.known.tolist() == [True, False]
    np.testing.assert_array_equal(found.token_hashes.row(0), names.token_hashes(["country=FR"]))
    assert found.activity.sum() == 0
    reader.close()


def client_url(client: redis.Redis) -> str:
    options = client.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/{options['db']}"


def test_compiling_twice_gives_the_same_plan(applied: tuple[Any, Plan, redis.Redis]) -> None:
    from recsys.features.feast_repository import compile_plan

    _, plan, _ = applied
    again = compile_plan(default_repository(), project="other")
    assert again.schema_hash == plan.schema_hash
    assert again.views == plan.views


def test_every_value_decodes_as_the_sdk_encodes_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast.protos.feast.types.Value_pb2 import Int64List, StringList
        from feast.protos.feast.types.Value_pb2 import Value as ValueProto

    long = ["x" * 200, "", "é"]
    for proto, value in (
        (ValueProto(string_val="é" * 100), "é" * 100),
        (ValueProto(int64_val=-5), -5),
        (ValueProto(int32_val=-5), -5),
        (ValueProto(float_val=0.5), 0.5),
        (ValueProto(double_val=-1e300), -1e300),
        (ValueProto(bool_val=False), False),
        (ValueProto(string_list_val=StringList(val=long)), long),
        (ValueProto(int64_list_val=Int64List(val=[0, -1, 2**62, 300])), [0, -1, 2**62, 300]),
    ):
        assert decode_value(proto.SerializeToString()) == value
    assert decode_value(b"") is None
    assert decode_value(None) is None


def test_encoders_write_what_the_sdk_writes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast.protos.feast.types.Value_pb2 import Int64List, StringList
        from feast.protos.feast.types.Value_pb2 import Value as ValueProto
    from google.protobuf.timestamp_pb2 import Timestamp

    from recsys.features import layout

    numbers = [0, 1, 127, 128, 16_383, 16_384, 1_763_000_000_123, 2**62, -1, 2**35]
    encoded = layout.encode_int64_lists(np.array([*numbers, 5]), np.array([0, 10, 10, 11]))
    for row, values in zip(encoded, [numbers, [], [5]], strict=True):
        assert row == ValueProto(int64_list_val=Int64List(val=values)).SerializeToString()
    for strings in ([], ["a"], ["", "é" * 90, "z" * 300]):
        wanted = ValueProto(string_list_val=StringList(val=strings)).SerializeToString()
        assert layout.encode_strings(strings) == wanted
    view = small_plan().view("item_activity")
    scalars = np.tile(np.array([[0.0], [-1.5], [3e38]], np.float32), len(view.features))
    times_ms = np.array([0, T0, T0 + 5])
    for row, value, at_ms in zip(
        pack_scalars(view, scalars, times_ms), scalars[:, 0], times_ms, strict=True
    ):
        fields = PackedFields([row])
        stored = ValueProto(float_val=value).SerializeToString()
        assert dict(fields) == {f.field_bytes: stored for f in view.features} | {
            view.timestamp_field: layout.encode_timestamp(int(at_ms))
        }
    edges = (2**28 * 1000 - 1, 2**28 * 1000, 2**35 * 1000 - 1, 2**35 * 1000, 127 * 1000)
    for time_ms in (0, 1, 1000, T0, T0 + 1, T0 + 999, *edges):
        stamp = Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)
        assert layout.encode_timestamp(time_ms) == stamp.SerializeToString()
        assert layout.decode_timestamp(stamp.SerializeToString()) == time_ms
        assert layout.encode_timestamps(np.array([time_ms, T0])) == [
            layout.encode_timestamp(time_ms), layout.encode_timestamp(T0)
        ]  # fmt: skip


def feast(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Feast's own command in ``folder``, told nothing by us."""
    told = ("FEAST_FS_YAML_FILE_PATH", "RECSYS_FEAST_REDIS")
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("feast")), *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in told},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(150)
def test_feast_apply_and_feast_ui_work_in_the_repository(tmp_path: Path) -> None:
    folder = tmp_path / "feature_repo"
    shutil.copytree(default_repository(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    applying = feast(folder, "apply")
    said, _ = applying.communicate(timeout=60)
    assert applying.returncode == 0, said
    assert (tmp_path / "var" / "feast.db").stat().st_size > 0
    port = free_ports(1)
    page = feast(folder, "ui", "--host", "127.0.0.1", "--port", str(port))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + 60
            while True:
                assert page.poll() is None, page.communicate()[0][-3000:]
                assert time.monotonic() < deadline, "feast ui does not answer"
                try:
                    assert client.get("/").status_code == 200
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            answer = client.get("/api/v1/feature_services", params={"project": "recsys"}).json()
    finally:
        page.terminate()
        page.communicate(timeout=20)
    names_of_services = {service["spec"]["name"] for service in answer["featureServices"]}
    assert names_of_services == {"retrieval_v1", "ranking_v1"}
