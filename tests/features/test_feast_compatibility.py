"""Our bytes are Feast's bytes: the SDK reads what we write, and we read what the SDK writes."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
import yaml

from recsys.clock import DAY_MS, HOUR_MS, now_ms
from recsys.errors import ConfigurationError
from recsys.events.codec import encode
from recsys.events.log import Record
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent, ItemEvent, UserEvent
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features import plan as plans
from recsys.features.current_plan import default_repository
from recsys.features.hashes import VERSION_FIELD, MemoryHashes
from recsys.features.key_layout import EntityKeys
from recsys.features.online import OnlineReader
from recsys.features.packed_fields import PackedFields, pack_scalars
from recsys.features.plan import Plan
from recsys.features.request_time import REQUEST_TIME_FEATURES, request_time
from recsys.features.service_reader import EntityRequest, ServiceReader
from recsys.features.stream import FeatureStream
from recsys.features.value_layout import decode_value
from recsys.settings import Settings
from tests.features.worlds import small_plan, vocabulary
from tests.servers import free_ports

# Feast warns about itself: streams are experimental, names of its own arguments are deprecated.
pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings("ignore")]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    from recsys.features.online_store.response import ColumnarResponse
T0 = 1_700_000_000_000 // DAY_MS * DAY_MS


def with_stored_values(folder: Path) -> Path:
    """Give the repository as it is where others read the stream's views without our plug-in."""
    for file in default_repository().iterdir():
        if file.is_file():
            text = file.read_text()
            (folder / file.name).write_text(text.replace("tags=STORED", "tags={}"))
    assert "tags={}" in (folder / "definitions.py").read_text()
    return folder


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

        folder = with_stored_values(tmp_path_factory.mktemp("repository"))
        feast_repository.apply(settings, folder)
        # Feast's own store over the same registry: what is ours is tested against it.
        config = yaml.safe_load(Path(os.environ["FEAST_FS_YAML_FILE_PATH"]).read_text())
        config["online_store"]["type"] = "redis"
        (state / "feasts_own.yaml").write_text(yaml.safe_dump(config))
        store = FeatureStore(folder, fs_yaml_file=state / "feasts_own.yaml")
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


@pytest.fixture(scope="module")
def plugged(applied: tuple[Any, Plan, redis.Redis]) -> Iterator[Any]:
    from feast import FeatureStore

    store = FeatureStore(str(default_repository()))
    yield store
    asyncio.run(store._get_provider().online_store.close())


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


def clicked(plan: Plan, client: redis.Redis, user_id: str, ages_ms: Sequence[int]) -> int:
    """Have the stream write clicks of these ages; gives the present."""
    now = now_ms()
    topics, hashes = Topics(namespace=plan.project), MemoryHashes()
    made: list[Event] = [
        InteractionEvent(event_id=f"{user_id}{n}", event_time_ms=now - age, user_id=user_id,
                         item_id="i1", type="click", value=2.0)
        for n, age in enumerate(ages_ms)
    ]  # fmt: skip
    batch = [
        (Record(topics.route(e)[0], 0, n, None, encode(e), now), e) for n, e in enumerate(made)
    ]
    hashes.write(FeatureStream(plan, hashes, topics).apply(batch)[0])
    for key, fields in hashes.content.items():
        client.delete(key)
        client.hset(key, mapping=dict(fields))
    return now


ACTIVITY = ("interactions_1h", "interactions_1d", "interactions_90d", "value_sum_30d")


def test_a_window_falls_while_nothing_arrives(
    applied: tuple[Any, Plan, redis.Redis], plugged: Any
) -> None:
    theirs, plan, client = applied
    now = clicked(plan, client, "fallen", [2 * HOUR_MS, 2 * HOUR_MS + 1])
    clicked(plan, client, "fresh", [0])
    clicked(plan, client, "gone", [91 * DAY_MS])
    features = [f"user_activity:{name}" for name in ACTIVITY]
    keys = {"user_id": ["fallen", "fresh", "gone", "nobody"]}
    stored = theirs.get_online_features(features, keys).to_dict()
    assert stored["interactions_1h"] == [2.0, 1.0, 1.0, None]  # as of each one's last click
    present, expired, missing = (
        FieldStatus.PRESENT, FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND
    )  # fmt: skip
    wanted = {
        "interactions_1h": [0.0, 1.0, None, None],
        "interactions_1d": [2.0, 1.0, None, None],
        "interactions_90d": [2.0, 1.0, None, None],
        "value_sum_30d": [4.0, 2.0, None, None],
    }
    on_loop = asyncio.run(read_on_loop(plugged, features, keys))
    for answer in (plugged.get_online_features(features, keys), on_loop):
        assert isinstance(answer, ColumnarResponse)
        found = answer.to_dict()
        assert {name: found[name] for name in wanted} == wanted
        statuses = [list(result.statuses) for result in answer.proto.results[1:]]
        assert statuses == [[present, present, expired, missing]] * len(ACTIVITY)
        at = [t.ToMilliseconds() for t in answer.proto.results[1].event_timestamps]
        assert at[0] == now - 2 * HOUR_MS
    # Feast's own path, which a service with on-demand features takes.
    rows = [{"user_id": u, "category": "tea", "as_of_ms": now, "last_interaction_ms": now}
            for u in keys["user_id"]]  # fmt: skip
    service = plugged.get_feature_service("retrieval_v1")
    answer = plugged.get_online_features(service, rows, full_feature_names=True)
    assert not isinstance(answer, ColumnarResponse)
    found = answer.to_dict()
    assert {name: found[f"user_activity__{name}"] for name in wanted} == wanted
    # The same as serving reads.
    reader = OnlineReader(plan, client_url(client))
    users = reader.read_users(["fallen", "fresh", "gone"], vocabulary=vocabulary(), now_ms=now_ms())
    columns = [plan.user_activity_names.index(name) for name in ACTIVITY]
    for row, place in ((0, 0), (1, 1)):
        assert users.activity[row, columns].tolist() == [wanted[n][place] for n in ACTIVITY]
    reader.close()


async def read_on_loop(store: Any, features: list[str], keys: dict[str, list[str]]) -> Any:
    answer = await store.get_online_features_async(features, keys)
    await store._get_provider().online_store.close()
    return answer


def test_what_somebody_else_wrote_later_counts(
    applied: tuple[Any, Plan, redis.Redis], plugged: Any
) -> None:
    import pandas as pd

    _, plan, client = applied
    now = clicked(plan, client, "pushed", [2 * HOUR_MS])
    view = plan.view("user_activity")
    for at_ms, shown in ((now - 3 * HOUR_MS, 0.0), (now - HOUR_MS, 7.0)):
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        frame = pd.DataFrame(
            [{"user_id": "pushed", **dict.fromkeys(view.feature_names, 7.0),
              "event_timestamp": at, "created": at}]
        )  # fmt: skip
        plugged.write_to_online_store("user_activity", frame)
        keys = {"user_id": ["pushed"]}
        found = plugged.get_online_features(["user_activity:interactions_1h"], keys).to_dict()
        assert found["interactions_1h"] == [shown]
    # Without a state the stored fields are all there is.
    key = EntityKeys(view, plan.project).of("pushed")
    client.hdel(key, view.state_field)
    found = plugged.get_online_features(["user_activity:interactions_1h"], keys).to_dict()
    assert found["interactions_1h"] == [7.0]


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
        assert answer[f"request_time__{name}"] == [value]
    reader = ServiceReader(plan, client_url(client))
    request = EntityRequest(
        "retrieval_v1",
        {"user_id": ["zoë"]},
        {"as_of_ms": [moment], "last_interaction_ms": [last]},
    )
    (ours,) = reader.read([request], now_us=moment * 1000)
    (without,) = reader.read([EntityRequest("retrieval_v1", {"user_id": ["zoë"]})], now_us=0)
    reader.close()
    for name in REQUEST_TIME_FEATURES:
        assert (
            ours.column(f"request_time:{name}").values.tolist() == answer[f"request_time__{name}"]
        )
    assert ours.float_names == without.float_names
    assert set(ours.columns) - set(without.columns) == {
        f"request_time:{name}" for name in REQUEST_TIME_FEATURES
    }


def test_of_a_view_whose_state_alone_is_stored_the_answers_are_the_same(
    applied: tuple[Any, Plan, redis.Redis], plugged: Any, tmp_path: Path
) -> None:
    import pandas as pd
    from feast import FeatureStore

    from recsys.features import feast_repository

    _, plan, client = applied
    settings = Settings(  # type: ignore[call-arg]
        RECSYS_STATE_DIR=tmp_path, RECSYS_NAMESPACE="state_feastcheck",
        REDIS_URL=client_url(client),
    )  # fmt: skip
    before = dict(os.environ)
    try:
        lean = feast_repository.apply(settings, default_repository())
        store = FeatureStore(str(default_repository()))
    finally:
        os.environ.clear()
        os.environ.update(before)
    ages = {"both": [2 * HOUR_MS, 3 * HOUR_MS], "fresh": [0], "gone": [91 * DAY_MS]}
    for user_id, some in ages.items():
        clicked(plan, client, user_id, some)
        clicked(lean, client, user_id, some)
    made = [view for view in lean.views if view.is_made_when_read]
    assert {view.name for view in made} == {
        names.USER_ACTIVITY, names.ITEM_ACTIVITY, names.USER_CATEGORY_ACTIVITY, names.USER_HISTORY,
    }  # fmt: skip
    user = EntityKeys(lean.view(names.USER_ACTIVITY), lean.project).of("both")
    assert set(client.hkeys(user)) == {  # type: ignore[arg-type]
        lean.view(names.USER_ACTIVITY).state_field, lean.view(names.USER_HISTORY).state_field,
        VERSION_FIELD,
    }  # fmt: skip
    keys = {"user_id": [*ages, "nobody"], "item_id": ["i1", "i1", "i1", "none"],
            "category": ["tea"] * 4}  # fmt: skip
    # A moment's difference between the clicks and between the reads changes no other feature.
    same = [f"{v.name}:{n}" for v in made for n in v.feature_names if n != "last_ms"]
    reader = ServiceReader(lean, client_url(client))
    for features, rows in ((same, keys), ("retrieval_v1", keys)):
        found = []
        for one in (plugged, store):
            asked = one.get_feature_service(features) if isinstance(features, str) else features
            if isinstance(features, str):
                rows = rows | {"as_of_ms": [T0] * 4, "last_interaction_ms": [T0] * 4}
            answer = one.get_online_features(asked, rows, full_feature_names=True)
            assert isinstance(answer, ColumnarResponse) is not isinstance(features, str)
            columns = answer.to_dict()
            columns.pop("user_history__last_ms", None)
            found.append((columns, [list(r.statuses) for r in answer.proto.results]))
        assert found[0] == found[1]
    assert found[0][0]["user_history__item_ids"] == [["i1"], ["i1"], ["i1"], None]
    assert found[0][0]["user_history__counts"] == [[2], [1], [1], None]
    (rows_read,) = reader.read(
        [EntityRequest("ranking_v1", {"user_id": keys["user_id"]})], now_us=now_ms() * 1000
    )
    reader.close()
    counts = rows_read.column("user_history:counts")
    assert [counts.values.row(n).tolist() for n in range(4)] == [[2], [1], [1], []]  # type: ignore[union-attr]
    assert rows_read.column("user_activity:interactions_1d").values.tolist()[:2] == [2.0, 1.0]
    frame = pd.DataFrame(
        [{"user_id": "x", **dict.fromkeys(lean.user_activity_names, 7.0),
          "event_timestamp": datetime.now(UTC), "created": datetime.now(UTC)}]
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match='"user_activity" has the tag stored="state"'):
        store.write_to_online_store("user_activity", frame)
    asyncio.run(store._get_provider().online_store.close())


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


def test_compiling_twice_gives_the_same_plan(
    applied: tuple[Any, Plan, redis.Redis], tmp_path: Path
) -> None:
    from recsys.features.feast_declarations import compile_plan

    _, plan, _ = applied
    assert all(view.stores_values for view in plan.views)
    again = compile_plan(with_stored_values(tmp_path), project="other")
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

    from recsys.features import time_layout, value_layout

    numbers = [0, 1, 127, 128, 16_383, 16_384, 1_763_000_000_123, 2**62, -1, 2**35]
    encoded = value_layout.encode_int64_lists(np.array([*numbers, 5]), np.array([0, 10, 10, 11]))
    for row, values in zip(encoded, [numbers, [], [5]], strict=True):
        assert row == ValueProto(int64_list_val=Int64List(val=values)).SerializeToString()
    for strings in ([], ["a"], ["", "é" * 90, "z" * 300]):
        wanted = ValueProto(string_list_val=StringList(val=strings)).SerializeToString()
        assert value_layout.encode_strings(strings) == wanted
    view = small_plan().view("item_activity")
    scalars = np.tile(np.array([[0.0], [-1.5], [3e38]], np.float32), len(view.features))
    times_ms = np.array([0, T0, T0 + 5])
    for row, value, at_ms in zip(
        pack_scalars(view, scalars, times_ms), scalars[:, 0], times_ms, strict=True
    ):
        fields = PackedFields([row])
        stored = ValueProto(float_val=value).SerializeToString()
        assert dict(fields) == {f.field_bytes: stored for f in view.features} | {
            view.timestamp_field: time_layout.encode_timestamp(int(at_ms))
        }
    edges = (2**28 * 1000 - 1, 2**28 * 1000, 2**35 * 1000 - 1, 2**35 * 1000, 127 * 1000)
    for time_ms in (0, 1, 1000, T0, T0 + 1, T0 + 999, *edges):
        stamp = Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)
        assert time_layout.encode_timestamp(time_ms) == stamp.SerializeToString()
        assert time_layout.decode_timestamp(stamp.SerializeToString()) == time_ms
        assert time_layout.encode_timestamps(np.array([time_ms, T0])) == [
            time_layout.encode_timestamp(time_ms), time_layout.encode_timestamp(T0)
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
