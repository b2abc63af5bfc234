"""The plug-in beside Feast's own Redis store: same bytes both ways, same answers, and TTLs."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.features.redis_hashes import connect
from recsys.features.service_reader import EntityRequest, ServiceReader
from recsys.features.value_columns import Mask

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings("ignore")]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    from recsys.features.feast_declarations import plan_of_store
    from recsys.features.online_store.address import url_of
    from recsys.features.online_store.response import ColumnarResponse
    from tests.features.online_store import feast_repo
    from tests.features.online_store.feast_repo import NOW, OURS, open_store

Stores = tuple[Any, Any]


@pytest.fixture
def stores(tmp_path: Path, namespace: str, redis_url: str) -> Iterator[Stores]:
    theirs = open_store(tmp_path, namespace, redis_url, type="redis")
    theirs.apply(feast_repo.OBJECTS)
    ours = open_store(tmp_path, namespace, redis_url, type=OURS)
    yield theirs, ours
    asyncio.run(ours._get_provider().online_store.close())
    with connect(redis_url) as client:
        for key in client.scan_iter(f"*{namespace}"):
            client.delete(key)


def stored(redis_url: str, project: str) -> dict[bytes, dict[bytes, bytes]]:
    with connect(redis_url) as client:
        return {key: client.hgetall(key) for key in client.scan_iter(f"*{project}")}


def write_all(store: Any, frames: dict[str, Any]) -> None:
    for view, frame in frames.items():
        store.write_to_online_store(view, frame)


REQUESTS: list[tuple[Any, dict[str, list[Any]]]] = [
    (["stats:rate", "stats:acc", "stats:trips", "stats:tags"], {"driver_id": [0, 1, 99, 0, 2]}),
    (["stats:acc", "more:d", "more:small", "more:live", "more:name", "more:raw", "more:numbers",
      "more:flags", "more:doubles", "stats:rate"], {"driver_id": [3, 2, 1, 0]}),
    (["vectors:vec", "stats:acc"], {"driver_id": [1, 7]}),
    (["pairs:n", "pairs:x", "stats:acc"],
     {"driver_id": [0, 1, 1], "customer_id": ["c0", "c1", "c2"], "place_id": [0, 1, 1]}),
]  # fmt: skip
LEFT_TO_FEAST: list[tuple[Any, dict[str, list[Any]]]] = [
    (["more:seen", "more:vec"], {"driver_id": [0, 5, 1]}),
    (["doubled:double_rate", "stats:rate"], {"driver_id": [0, 1, 5]}),
    (["constant:value"], {"driver_id": [0, 1]}),
    (["stats:acc"], {"driver_id": ["1", "0"]}),
]


def test_the_bytes_are_those_of_the_sdk(stores: Stores, redis_url: str) -> None:
    theirs, ours = stores
    write_all(theirs, feast_repo.rows())
    wanted = stored(redis_url, ours.project)
    assert len(wanted) == 8
    ours.teardown()
    assert stored(redis_url, ours.project) == {}
    theirs.apply(feast_repo.OBJECTS)
    write_all(ours, feast_repo.rows())
    assert stored(redis_url, ours.project) == wanted


async def on_loop(store: Any, *request: Any) -> Any:
    answer = await store.get_online_features_async(*request)
    await store._get_provider().online_store.close()
    return answer


@pytest.mark.parametrize("written_by", [0, 1])
def test_answers_are_those_of_the_sdk(stores: Stores, written_by: int) -> None:
    theirs, ours = stores
    write_all(stores[written_by], feast_repo.rows())
    service = theirs.get_feature_service("ranking")
    requests = [
        *REQUESTS,
        (service, {"driver_id": [2, 9], "customer_id": ["c2", "c9"], "place_id": [2, 9]}),
    ]
    for features, entities in (*requests, *LEFT_TO_FEAST):
        as_rows = [
            dict(zip(entities, row, strict=True)) for row in zip(*entities.values(), strict=True)
        ]
        for full_names in (False, True):
            for given in (entities, as_rows):
                wanted = theirs.get_online_features(features, given, full_names)
                found = ours.get_online_features(features, given, full_names)
                is_fast = isinstance(found, ColumnarResponse)
                assert is_fast == ((features, entities) not in LEFT_TO_FEAST)
                with_times = wanted.to_dict(include_event_timestamps=True)
                assert found.to_dict(include_event_timestamps=True) == with_times
                assert list(found.to_dict()) == list(wanted.to_dict())
                assert found.to_df().equals(wanted.to_df())
                assert found.proto.metadata == wanted.proto.metadata
                for ours_column, theirs_column in zip(
                    found.proto.results, wanted.proto.results, strict=True
                ):
                    assert list(ours_column.values) == list(theirs_column.values)
                    assert list(ours_column.event_timestamps) == list(
                        theirs_column.event_timestamps
                    )

                answer = asyncio.run(on_loop(ours, features, given, full_names))
                assert answer.to_dict() == wanted.to_dict()


def statuses(response: Any, name: str) -> list[int]:
    names = list(response.proto.metadata.feature_names.val)
    return list(response.proto.results[names.index(name)].statuses)


def test_ttl_is_applied_and_absence_is_said(stores: Stores, tmp_path: Path, redis_url: str) -> None:
    theirs, ours = stores
    for view in ("stats", "more"):
        theirs.write_to_online_store(view, feast_repo.rows(2)[view])
        old = feast_repo.rows(4, NOW - timedelta(hours=2))[view][2:]
        theirs.write_to_online_store(view, old)
    entities = {"driver_id": [0, 1, 2, 7]}
    found, expired, missing = (
        FieldStatus.PRESENT, FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND
    )  # fmt: skip
    keeps = open_store(tmp_path, ours.project, redis_url, type=OURS, keep_expired_values=True)
    for features in (["stats:acc", "stats:tags"], ["stats:acc", "stats:tags", "more:seen"]):
        answer = ours.get_online_features(features, entities)
        assert answer.to_dict()["acc"] == [0.0, 1.0, None, None]
        assert answer.to_dict()["tags"] == [["é", "0"], [], None, None]
        kept = keeps.get_online_features(features, entities)
        wanted = theirs.get_online_features(features, entities)
        assert kept.to_dict() == wanted.to_dict()
        for response in (answer, kept):
            for name in ("acc", "tags"):
                assert statuses(response, name) == [found, found, expired, missing]
    live = ours.get_online_features(["stats:acc", "more:live"], entities)
    assert live.to_dict()["live"] == [False, True, False, None]  # no TTL
    table = ours.get_feature_view("stats")
    store, provider = ours._get_provider().online_store, ours._get_provider()
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    keys = [
        EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=n)]) for n in (0, 2, 7)
    ]
    read = store.online_read(ours.config, table, keys, ["acc"])
    assert read[0] == (NOW, {"acc": Value(float_val=0.0)})
    assert read[1:] == [(None, None), (None, None)]
    assert len(keeps._get_provider().online_store.online_read(keeps.config, table, keys)[1][1]) == 4
    assert provider is not None


def test_a_correction_arrives_and_an_older_row_does_not(
    stores: Stores, tmp_path: Path, redis_url: str
) -> None:
    _, ours = stores
    keeps = open_store(tmp_path, ours.project, redis_url, type=OURS, equal_time="keep")
    frame = feast_repo.rows(1)["stats"]

    def rate_after(store: Any, acc: float, at: Any) -> Any:
        store.write_to_online_store("stats", frame.assign(acc=acc, event_timestamp=at))
        return ours.get_online_features(["stats:acc"], {"driver_id": [0]}).to_dict()["acc"]

    assert rate_after(ours, 1.0, NOW) == [1.0]
    assert rate_after(ours, 2.0, NOW) == [2.0]
    assert rate_after(ours, 3.0, NOW - timedelta(microseconds=1)) == [2.0]
    assert rate_after(keeps, 4.0, NOW) == [2.0]
    assert rate_after(keeps, 5.0, NOW + timedelta(microseconds=1)) == [5.0]


def test_a_plan_of_any_repository_reads_without_feast(stores: Stores, redis_url: str) -> None:
    theirs, ours = stores
    write_all(theirs, feast_repo.rows())
    plan = plan_of_store(ours)
    assert plan.view("pairs").join_keys == ("customer_id", "driver_id", "place_id")
    assert plan.view("pairs").key_types == ("string", "int64", "int32")
    assert plan.view("vectors").feature("vec").columns == ("a", "b", "c")
    reader = ServiceReader(plan, redis_url)
    now_us = int(NOW.timestamp()) * 1_000_000
    (rows,) = reader.read(
        [
            EntityRequest(
                "ranking",
                {"driver_id": [2, 1], "customer_id": ["c2", "?"], "place_id": [2, 1]},
            )
        ],
        now_us=now_us,
    )
    np.testing.assert_array_equal(rows.column("stats:acc").values, [2.0, 1.0])
    assert rows.column("stats:rate").mask.tolist() == [Mask.PRESENT, Mask.NULL]
    assert rows.column("pairs:n").mask.tolist() == [Mask.PRESENT, Mask.MISSING]
    reader.close()


def test_views_may_be_versioned(tmp_path: Path, namespace: str, redis_url: str) -> None:
    from feast.repo_config import RepoConfig

    def open_versioned(kind: str) -> Any:
        config = feast_repo.config_of(tmp_path, namespace, redis_url, type=kind)
        config["registry"] = {
            "path": config["registry"], "enable_online_feature_view_versioning": True
        }  # fmt: skip
        from feast import FeatureStore

        return FeatureStore(config=RepoConfig(**config, repo_path=str(tmp_path)))

    theirs = open_versioned("redis")
    theirs.apply(feast_repo.OBJECTS)
    changed = feast_repo.stats.__copy__()
    changed.features = [*changed.features, type(changed.features[0])(
        name="added", dtype=feast_repo.Float32)]  # fmt: skip
    theirs.apply([changed])
    ours = open_versioned(OURS)
    frame = feast_repo.rows()["stats"].assign(added=1.5)
    ours.write_to_online_store("stats", frame)
    features, entities = ["stats:acc", "stats:added"], {"driver_id": [0, 1, 8]}
    wanted = theirs.get_online_features(features, entities).to_dict()
    assert wanted["added"] == [1.5, 1.5, None]
    assert ours.get_online_features(features, entities).to_dict() == wanted
    names = {f for fields in stored(redis_url, namespace).values() for f in fields if b"_ts" in f}
    version = theirs.get_feature_view("stats").current_version_number
    assert names == {f"_ts:stats_v{version}".encode()}
    assert plan_of_store(ours).view("stats").stored_name == f"stats_v{version}"
    ours.teardown()


def test_feasts_spelling_of_an_address() -> None:
    assert url_of("h:1,db=2", is_cluster=False) == "redis://h:1/2"
    assert (
        url_of("a:1,b:2,ssl=true,username=u,password=p@ss", is_cluster=True)
        == "rediss+cluster://u:p%40ss@a:1,b:2"
    )
    assert url_of("h:1,ssl=true,ssl_ca_certs=/ca.pem", is_cluster=False) == (
        "rediss://h:1/0?ssl_ca_certs=%2Fca.pem"
    )
    assert url_of("h:1,retry_on_timeout=true", is_cluster=False) is None
