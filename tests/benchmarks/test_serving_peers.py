"""Serving peers give the list we give; turns that were taken are not taken again.

A peer's own service is asked where its environment has been made (``RECSYS_STATE_DIR`` says where;
``python -m benchmarks.peers.serving`` makes it): starting one takes from five to thirty seconds.
"""

from __future__ import annotations

import json
import os
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.loadtest.kernels import users as made_up_users
from benchmarks.loadtest.untrained_bundle import (
    NUM_CATEGORIES,
    TOWERS_ONLY,
    add_untrained_bundle,
    category_of,
    item_id,
)
from benchmarks.peers.environments import state_of
from benchmarks.peers.one_process.features import Features, open_store
from benchmarks.peers.one_process.recommender import Recommender, RecommendRequest
from benchmarks.peers.serving import report
from benchmarks.peers.serving.same_lists import agreement, require_same_lists
from benchmarks.peers.serving.services import PEERS, ask, started
from benchmarks.peers.serving.turns_file import TurnsFile
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.bundle.served import load_served_bundle
from recsys.errors import InputError, ServerError
from recsys.features import current_plan
from recsys.features.plan import PLAN_FILE, load
from recsys.inference.compute import answer
from recsys.models.encode import encode_users
from recsys.settings import Settings

_ITEMS, _TOUCHED = 3_000, 600
_USERS = ("ann", "bob", "cyd")
_K = 20


class Prepared(NamedTuple):
    bundle: Path
    feast: Path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Prepared:
    """A bundle, and its features in Feast's own Redis store: of three users and some items."""
    folder = tmp_path_factory.mktemp("peers")
    plan = current_plan.ensure(folder / "var", project="peer")
    bundle_dir = folder / "bundles"
    bundle_id = add_untrained_bundle(bundle_dir, plan, num_items=_ITEMS, mix=TOWERS_ONLY, seed=3)
    feast = _fill_store(folder, redis_url, plan)
    return Prepared(bundle_dir / bundle_id, feast)


def _fill_store(folder: Path, redis_url: str, plan: Any) -> Path:
    rng = np.random.default_rng(5)
    users = pd.DataFrame({"user_id": _USERS})
    pairs = pd.DataFrame(
        [(user, f"c{g}") for user in _USERS for g in range(NUM_CATEGORIES)],
        columns=["user_id", "category"],
    )
    items = pd.DataFrame({"item_id": [item_id(row) for row in range(1, _TOUCHED + 1)]})

    def moving(rows: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
        values = rng.poisson(2.0, (len(rows), len(names))).astype(np.float32)
        return pd.concat([rows, pd.DataFrame(values, columns=list(names))], axis=1)

    seen = [[item_id(int(row)) for row in rng.integers(1, _TOUCHED, 7)] for _ in _USERS]
    history = users.assign(
        item_ids=seen,
        counts=[[1.0] * 7 for _ in _USERS],
        last_ms=[[1_700_000_000_000 + n for n in range(7)] for _ in _USERS],
    )
    frames = {
        "user_profile": users.assign(tokens=[["country=de"], ["country=fr"], ["plan=free"]]),
        "user_activity": moving(users, plan.user_activity_names),
        "user_history": history,
        "user_category_activity": moving(pairs, plan.user_category_activity_names),
        "item_activity": moving(items, plan.item_activity_names),
    }
    file = folder / "feature_store.yaml"
    address = urlsplit(redis_url)
    file.write_text(
        f"""project: {folder.name}
provider: local
entity_key_serialization_version: 3
registry: {folder / "registry.db"}
online_store:
  type: redis
  connection_string: {address.hostname}:{address.port},db={address.path.strip("/")}
offline_store: {{type: file}}
"""
    )
    store = open_store(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import feast
        from feast.types import Array, Float32, Int64, String

        lists = {"tokens": Array(String), "item_ids": Array(String),
                 "counts": Array(Float32), "last_ms": Array(Int64)}  # fmt: skip
        keys = ("user_id", "category", "item_id")
        entities = {
            key: feast.Entity(name=key, join_keys=[key], value_type=feast.ValueType.STRING)
            for key in keys
        }
        views = [
            feast.FeatureView(
                name=name,
                entities=[entities[column] for column in frame if column in keys],
                ttl=timedelta(days=1),
                schema=[
                    feast.Field(name=str(column), dtype=lists.get(str(column), Float32))
                    for column in frame
                    if column not in keys
                ],
                source=feast.FileSource(
                    name=f"{name}_rows", path=str(folder / f"{name}.parquet"),
                    timestamp_field="event_timestamp",
                ),
            )
            for name, frame in frames.items()
        ]  # fmt: skip
        store.apply([*entities.values(), *views])
        for name, frame in frames.items():
            store.write_to_online_store(name, frame.assign(event_timestamp=datetime.now(UTC)))
    return file


def _assert_same_list(items: list[Any], scores: list[float], wanted: list[Any]) -> None:
    """Equal scores may change places, and a moment has passed between the two."""
    np.testing.assert_allclose(scores, [item.score for item in wanted], atol=1e-3)
    assert len(set(items) & {item.item_id for item in wanted}) >= len(wanted) - 1


@pytest.mark.servers
def test_peers_answer_users_together_as_ours_answers_them(prepared: Prepared) -> None:
    asked = [RecommendRequest(user_id=user, k=_K) for user in _USERS]
    found = Recommender(*prepared).recommend(asked)

    manifest = read_manifest(prepared.bundle)
    vocabulary = load_served_bundle(prepared.bundle).vocabulary
    plan = load(prepared.bundle / PLAN_FILE)
    features = Features(open_store(prepared.feast), plan, vocabulary)
    ours = load_serving_model(prepared.bundle)
    activity = np.vstack(
        [np.zeros((1, len(plan.item_activity_names))), features.items(vocabulary.item_ids)]
    )
    ours.items.set_activity(torch.from_numpy(activity.astype(np.float32)), 0)
    inputs = made_up_users(ours.dimensions, ours.num_items, len(_USERS))
    encoded = encode_users(features.users(_USERS), manifest.encoding)
    inputs |= {name: torch.from_numpy(array) for name, array in encoded.items()}
    wanted = answer(ours, inputs, num_candidates=manifest.num_candidates)
    for place, one in enumerate(found):
        rows = wanted["item_index"][place].tolist()
        items = [vocabulary.item_ids[row - 1] for row in rows]
        assert [item.category for item in one.items] == [
            category_of(vocabulary.item_ids.index(item.item_id) + 1) for item in one.items
        ]
        _assert_same_list(items, wanted["score"][place].tolist(), one.items)
        assert not {item.item_id for item in one.items} & set(_history(features, place))


def _history(features: Features, place: int) -> list[str]:
    rows = features.users([_USERS[place]]).history_index.values
    return [item_id(int(row)) for row in rows]


@pytest.mark.servers
def test_an_answer_does_not_depend_on_who_is_answered_with_it(prepared: Prepared) -> None:
    recommender = Recommender(*prepared)
    asked = [
        RecommendRequest(user_id=user, k=k) for user, k in zip(_USERS, (3, 20, 7), strict=True)
    ]
    together = recommender.recommend(asked)
    for request, one in zip(asked, together, strict=True):
        alone = recommender.recommend([request])[0]
        assert len(one.items) == request.k
        items = [item.item_id for item in one.items]
        _assert_same_list(items, [item.score for item in one.items], alone.items)


@pytest.mark.servers
@pytest.mark.parametrize("name", sorted(name for name, peer in PEERS.items() if peer.environment))
def test_a_peers_service_gives_the_same_list(name: str, prepared: Prepared, tmp_path: Path) -> None:
    state_dir = Settings().state_dir
    if (found := state_of(PEERS[name].environment, state_dir)) != "built":
        pytest.skip(
            f"{name}: environment {found} in {state_dir / 'peers'}: `python -m "
            "benchmarks.peers.serving` makes it (RECSYS_STATE_DIR says where it is)"
        )
    wanted = Recommender(*prepared).recommend([RecommendRequest(user_id="bob", k=_K)])[0]
    with started(name, *prepared, state_dir, os.environ) as (port, tree):
        label, body = ask(port, "bob", _K)
        assert tree.num_processes() > 1
    assert label == "200 full"
    found = json.loads(body)["items"]
    _assert_same_list(
        [item["item_id"] for item in found], [item["score"] for item in found], wanted.items
    )


def test_a_turn_that_was_taken_is_found_again(tmp_path: Path) -> None:
    turns = TurnsFile(tmp_path, {"items": 10, "schedule": {"callers": (4, 16)}})
    turns.keep(1, "ours", {"alone": 2})
    assert turns.find(0, "ours") is None
    found = TurnsFile(tmp_path, turns.measured_as).all(["ours", "ray_serve"], 3)
    assert [(name, list(of)) for name, of in found.items()] == [("ours", [1]), ("ray_serve", [])]


def test_turns_measured_in_another_way_are_not_put_beside_these(tmp_path: Path) -> None:
    TurnsFile(tmp_path, {"items": 10, "seed": 0}).keep(0, "ours", {"alone": 2})
    with pytest.raises(InputError, match=r"same items, found \{'items': 10\}"):
        TurnsFile(tmp_path, {"items": 20, "seed": 0}).find(0, "ours")


def _turn(p50_ms: float, per_s: float, greatest: float | None) -> dict[str, Any]:
    latency = {f"p{p}_ms": p50_ms for p in (50, 95, 99)}
    return {
        "alone": latency | {"cpu_ms": {"all": 1.0}}, "at_rate": latency,
        "objective": {"greatest_rate": greatest}, "rss_mib": 1.0,
        "most": {
            "full_per_s": per_s, "cpu_ms": {"all": 2.0}, "answered": 30,
            "answers": {"200 full": 20, "503": 10},
        },
    }  # fmt: skip


def test_a_ratio_is_taken_within_a_round() -> None:
    ours = {0: _turn(10, 200, 100), 1: _turn(20, 100, 50), 2: _turn(10, 200, 100)}
    peer = {0: _turn(40, 20, None), 1: _turn(80, 10, None)}
    found = report.ratios(ours, peer)
    assert found["alone_p50_ms"] == {"median": 0.25, "least": 0.25, "greatest": 0.25, "rounds": 2}
    assert found["most_per_s"]["median"] == 10.0
    assert "greatest_rate_per_s" not in found


def test_a_figure_that_a_round_lacks_has_no_median() -> None:
    figures = report.summary({0: _turn(10, 20, 5.0), 1: _turn(30, 40, None)})
    assert figures["alone_p50_ms"]["median"] == 20
    assert figures["greatest_rate_per_s"] == {"median": None, "rounds": [5.0, None]}


def test_what_was_refused_pays_for_no_answer() -> None:
    assert report.summary({0: _turn(10, 20, 5.0)})["most_cpu_ms"]["median"] == 3.0


def test_lists_of_the_same_users_are_held_beside_each_other() -> None:
    ours = {"ann": {"a": 0.5, "b": 0.25}, "bob": {"c": 0.5, "d": 0.25}}
    found = agreement(ours, {"ann": {"b": 0.25, "a": 0.5}, "bob": {"d": 0.125, "x": 9.0}})
    assert (found.shared, found.score_gap, found.lists) == (0.75, 0.125, 2)
    assert not found.holds()
    assert agreement(ours, ours).holds()


def test_equal_items_with_other_scores_are_not_the_same_list() -> None:
    ours = {"ann": {"a": 0.5, "b": 0.25}}
    assert not agreement(ours, {"ann": {"a": 0.75, "b": 0.25}}).holds()


def test_a_window_that_ended_in_between_is_asked_for_once_more() -> None:
    ours = {"ann": {"a": 0.5}}
    values = {"now": 0.125}

    def refresh() -> None:
        values["now"] *= 2.0

    found = require_same_lists("peer", lambda: ours, lambda: {"ann": {"a": values["now"]}}, refresh)
    assert (found["shared"], found["tries"]) == (1.0, 2)


def test_a_peer_with_other_lists_is_not_measured() -> None:
    ours, peer = {"ann": {"a": 0.5, "b": 0.4}}, {"ann": {"a": 0.5, "c": 0.4}}
    with pytest.raises(ServerError, match=r"ray_serve: wanted the lists .* found 50.0%"):
        require_same_lists("ray_serve", lambda: ours, lambda: peer, lambda: None)


def test_the_report_gives_the_turn_in_which_lists_differed_most() -> None:
    turns = {
        round_: {"same_lists": {"shared": shared, "score_gap": gap, "lists": 20, "tries": 1}}
        for round_, (shared, gap) in enumerate([(1.0, 0.002), (0.99, 0.001)])
    }
    assert report.same_lists(turns) == {
        "shared_at_least": 0.99, "score_gap_at_most": 0.002, "lists": 40,
    }  # fmt: skip


def test_a_bundle_says_from_where_on_the_log_is_news_to_it(tmp_path: Path) -> None:
    plan = current_plan.ensure(tmp_path / "var", project="peer")
    known = {"load.items:0": 17}
    bundle_id = add_untrained_bundle(
        tmp_path / "bundles", plan, num_items=30, mix=TOWERS_ONLY, log_positions=known
    )
    assert load_served_bundle(tmp_path / "bundles" / bundle_id).log_positions == known
