"""Training on features as logged: the same as joined where serving was right, and never in silence
less than there was to learn from."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from rich.console import Console

from recsys.bundle.store import BundleStore
from recsys.clock import DAY_MS
from recsys.data.vocabulary import Vocabulary
from recsys.errors import FeatureError, InputError
from recsys.events.log_compaction import compact
from recsys.features.aggregation import Aggregate
from recsys.feedback.exposure import Exposure, TensorRecord
from recsys.feedback.exposure_lookup import LoggedExposures
from recsys.models.encode import UserEncoding
from tests.features.worlds import aggregate_view
from tests.training.answered_world import (
    AGE_MS,
    QUIET,
    TOPIC,
    Answered,
    answered_world,
    answers,
    context_rows,
    source_of,
    trained,
    write,
)
from training.examples.build import Place
from training.logged_agreement import as_table, compared, said
from training.logged_lists import LeftOut, LoggedLists, read_logged_lists
from training.prepare import prepare
from training.prepared import Prepared, Sources
from training.recipes import Recipe, debug
from training.shown_lists import rankers_lists
from training.tracking.record import record_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return answered_world(tmp_path_factory.mktemp("answered"))


def recipe(features: str = "logged", **changes: object) -> Recipe:
    base = debug()
    return replace(base, ranker=replace(base.ranker, features=features, **changes))


def prepared(
    world: Answered, exposures: LoggedExposures | None, wanted: Recipe, root: Path | None = None
) -> tuple[Prepared, Sources]:
    source = source_of(world.log, exposures, world.plan)
    return prepare(
        source.log, source.plan, wanted, source.objectives, test_from_ms=None, progress=QUIET,
        examples=Place(root=root) if root else None, exposures=exposures,
    )  # fmt: skip


@pytest.fixture(scope="module")
def joined(world: Answered) -> tuple[Prepared, Sources]:
    return prepared(world, None, recipe("joined"))


def read(
    world: Answered,
    joined: tuple[Prepared, Sources],
    exposures: LoggedExposures,
    *,
    encoding: UserEncoding | None = None,
    max_lists: int = 20_000,
    without_request: int = 0,
) -> LoggedLists:
    split, config = joined[0].split, joined[0].recipe.ranker
    vocabulary = joined[1].catalogue.vocabulary
    before = world.log.filter(pl.col("event_time_ms") < split.test_from_ms)
    lists, usable = rankers_lists(before, vocabulary, config, joined[0].objectives, split)
    lists.request_id[usable[:without_request]] = None
    return read_logged_lists(
        exposures, lists, usable, split=split, vocabulary=vocabulary,
        encoding=encoding or joined[0].encoding, plan_schema_hash=world.plan.schema_hash,
        max_lists=max_lists, rng=np.random.default_rng(7),
    )  # fmt: skip


def usable_lists(world: Answered, joined: tuple[Prepared, Sources]) -> list[str]:
    """Give the requests whose lists the ranker learns from."""
    split, config = joined[0].split, joined[0].recipe.ranker
    before = world.log.filter(pl.col("event_time_ms") < split.test_from_ms)
    vocabulary = joined[1].catalogue.vocabulary
    lists, usable = rankers_lists(before, vocabulary, config, joined[0].objectives, split)
    return lists.request_id[usable].tolist()


def test_logged_and_joined_lists_are_equal_to_the_bit(world, joined, tmp_path) -> None:
    task, sources = prepared(world, world.logged(tmp_path), recipe())
    wanted = context_rows(joined[0].rounds)
    assert len(wanted) > 300
    assert context_rows(task.rounds) == wanted
    found = sources.logged_features
    assert found is not None and found.num_lists == len(wanted) and found.left_out == {}
    assert set(found.equal_share.values()) == {1.0}
    assert found.num_compared == min(500, len(wanted))
    assert {name.partition(":")[0] for name in found.equal_share} == {
        "user_history", "user_profile", "user_activity", "request_time", "user_category_activity"
    }  # fmt: skip
    assert {k: v for k, v in sources.log_positions.items() if TOPIC in k}.keys() == {
        f"{TOPIC}:0", f"{TOPIC}:1"
    }  # fmt: skip
    assert joined[1].logged_features is None


def test_items_are_as_the_serving_table_was_and_never_later(world, joined, tmp_path) -> None:
    logged = read(world, joined, world.logged(tmp_path))
    shown_ms = logged.lists.time_ms[logged.row]
    np.testing.assert_array_equal(logged.item_moment_ms, shown_ms - 1 - AGE_MS)
    task, _ = prepared(world, world.logged(tmp_path / "again"), recipe(refresh_ms=3_600_000))
    split = task.split
    grid_ms = min(3_600_000, (split.test_from_ms - split.ranker_from_ms) // 8)
    left = np.sort(logged.item_moment_ms).tolist()
    for question in task.rounds:
        moments = [left.pop(0) for _ in range(len(question.weight))]
        assert question.as_of_ms == moments[0] and moments[-1] - moments[0] < grid_ms
    assert left == []


def test_a_bundle_with_rows_in_another_order_logs_the_same(world, joined, tmp_path) -> None:
    """Only what the run reads of it is replaced: its vocabulary file, and what it would log."""
    old = world.bundle
    other = Vocabulary(old.vocabulary.item_ids[::-1], old.vocabulary.categories[::-1])
    store = BundleStore(tmp_path / "bundles")
    bundle_id = store.add(BundleStore(world.bundle_dir).path(old.bundle_id))
    (store.path(bundle_id) / "vocabulary.json").write_text(
        json.dumps({"item_ids": other.item_ids, "categories": other.categories})
    )
    write(tmp_path, answers(world.log, world.plan, replace(old, vocabulary=other)))
    exposures = LoggedExposures(log_dir=tmp_path, topic=TOPIC, bundle_dir=store.bundle_dir)
    wanted = read(world, joined, world.logged(tmp_path / "same"))
    found = read(world, joined, exposures)
    assert found.identity != wanted.identity
    for name, values in wanted.context.items():
        np.testing.assert_array_equal(found.context[name], values, err_msg=name)


def changed(one: Exposure, **values: object) -> Exposure:
    return msgspec.structs.replace(one, **values)


def test_lists_that_cannot_be_learned_from_are_counted_by_reason(world, joined, tmp_path) -> None:
    requests = usable_lists(world, joined)
    dropped, other, popular, gone, early, damaged, twice = (
        set(requests[10 * n + 20 :][: n + 1]) for n in range(7)
    )
    kept: list[Exposure] = []
    for one in world.exposures:
        name = one.request_id
        if name in dropped:
            continue
        if name in other:
            one = changed(one, user_id="somebody-else")
        if name in popular:
            one = changed(one, rung="popular", features={}, features_as_of_ms=None)
        if name in gone:
            one = changed(one, bundle="f" * 16)
        if name in early:
            one = changed(one, features_as_of_ms=one.now_ms + 2)
        if name in damaged:
            tensor = TensorRecord.of(np.zeros((1, 1), dtype=np.float32))
            one = changed(one, features=one.features | {"user_dense": tensor})
        kept += [one, one] if name in twice else [one]
    found = read(world, joined, world.logged(tmp_path, kept), without_request=20)
    assert found.left_out == {
        LeftOut.NO_REQUEST_ID: 20, LeftOut.NO_EXPOSURE: 1, LeftOut.ANOTHER_USER: 2,
        LeftOut.NO_FEATURES: 3, LeftOut.BUNDLE_GONE: 4, LeftOut.SHOWN_BEFORE_FEATURES: 5,
        LeftOut.UNREADABLE: 6,
    }  # fmt: skip
    assert found.num_repeated == 7
    assert len(found.row) == len(requests) - 41 == len(set(found.row.tolist()))
    line = said(compared(found, joined[1].users, joined[0].encoding), found)
    assert "1 no exposure" in line and "all values are equal" in line
    assert "7 exposures were there once more" in line
    # What is left is right all the same.
    shares = compared(found, joined[1].users, joined[0].encoding).equal_share
    assert set(shares.values()) == {1.0}


def test_skew_that_is_learned_from_is_told_by_feature(world, joined, tmp_path) -> None:
    column = joined[0].encoding.dense_names.index("interactions_30d")
    skewed = []
    for n, one in enumerate(world.exposures):
        dense = one.features["user_dense"].array().copy()
        dense[0, column] += n % 4 == 0
        skewed.append(
            changed(one, features=one.features | {"user_dense": TensorRecord.of(dense)})
        )  # fmt: skip
    logged = read(world, joined, world.logged(tmp_path, skewed))
    found = compared(logged, joined[1].users, joined[0].encoding)
    shares = dict(found.equal_share)
    assert "are equal in user_activity:interactions_30d, the least" in said(found)
    assert shares.pop("user_activity:interactions_30d") == pytest.approx(0.75, abs=0.06)
    assert set(shares.values()) == {1.0}
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(as_table(found))
    first = console.export_text().splitlines()[4]
    assert "user_activity:interactions_30d" in first and "7" in first


def test_at_most_so_many_lists_are_read(world, joined, tmp_path) -> None:
    exposures = world.logged(tmp_path)
    few = read(world, joined, exposures, max_lists=50)
    every = read(world, joined, exposures)
    assert len(few.row) == 50 and set(few.row.tolist()) < set(every.row.tolist())


def test_nothing_to_learn_from_is_refused_with_what_was_found(world, joined, tmp_path) -> None:
    split = joined[0].split
    later = [one for one in world.exposures if one.now_ms >= split.test_from_ms]
    num = len(usable_lists(world, joined))
    for exposures in (
        LoggedExposures(log_dir=tmp_path / "none", topic=TOPIC, bundle_dir=world.bundle_dir),
        world.logged(tmp_path / "later", later),
        replace(world.logged(tmp_path / "pinned"), positions={}),
    ):
        with pytest.raises(InputError, match=rf"of {num} lists .* {num} no exposure.*--features"):
            prepared(world, exposures, recipe())
    gone = replace(world.logged(tmp_path / "gone"), bundle_dir=tmp_path / "no-bundles")
    with pytest.raises(InputError, match=rf"{num} bundle gone"):
        prepared(world, gone, recipe())


def test_data_that_nobody_was_served_from_are_refused(world, tmp_path) -> None:
    with pytest.raises(InputError, match=r"files of a data set.*--from-files"):
        prepared(world, None, recipe())
    without = replace(world, log=world.log.filter(pl.col("kind") != "impression"))
    with pytest.raises(InputError, match=r"wanted impressions.*found none among"):
        prepared(without, world.logged(tmp_path), recipe())


def test_a_feature_that_was_not_logged_is_named_with_its_bundle(world, joined, tmp_path) -> None:
    new = Aggregate(
        name="interactions_1d", column="interaction", function="count", window_ms=DAY_MS,
        slide_ms=3_600_000,
    )  # fmt: skip
    views = tuple(
        aggregate_view(v.name, v.join_keys, (*v.aggregates, new))
        if v.name == "user_activity"
        else v
        for v in world.plan.views
    )
    services = {
        name: (*there, "user_activity:interactions_1d")
        for name, there in world.plan.services.items()
    }
    plan = msgspec.structs.replace(world.plan, views=views, services=services)
    exposures = world.logged(tmp_path)
    with pytest.raises(
        FeatureError,
        match=rf"user_activity:interactions_1d as logged.*{world.bundle.bundle_id}.*joined",
    ):
        prepared(replace(world, plan=plan), exposures, recipe())
    # Fewer are taken by name.
    fewer = replace(joined[0].encoding, user_activity=("interactions_30d",))
    found = read(world, joined, exposures, encoding=fewer).context["user_dense"]
    every = read(world, joined, exposures).context["user_dense"]
    np.testing.assert_array_equal(found, every[:, 1:])


def test_examples_are_named_by_the_exposures_that_were_read(world, joined, tmp_path) -> None:
    exposures = world.logged(tmp_path / "log")
    first = prepared(world, exposures, recipe(), tmp_path / "sets")[0].rounds.folder
    compact(exposures.log_dir, TOPIC)
    assert prepared(world, exposures, recipe(), tmp_path / "sets")[0].rounds.folder == first
    made_from = json.loads((first / "manifest.json").read_text())["made_from"]
    assert made_from["exposures"] == read(world, joined, exposures).identity
    told = usable_lists(world, joined)[3]
    dense = TensorRecord.of(np.ones((1, len(joined[0].encoding.dense_names)), dtype=np.float32))
    others = [
        changed(one, features=one.features | {"user_dense": dense})
        if one.request_id == told else one
        for one in world.exposures
    ]  # fmt: skip
    other = world.logged(tmp_path / "other", others)
    assert prepared(world, other, recipe(), tmp_path / "sets")[0].rounds.folder != first


def test_a_run_ends_with_a_bundle_that_says_what_it_learned_from(world, tmp_path) -> None:
    kept = world.exposures[::2]
    source = source_of(world.log, world.logged(tmp_path, kept), world.plan)
    made = trained(source, tmp_path / "bundles", recipe())
    found = made.manifest.lineage.logged_features
    assert found is not None and found.num_lists > 100 and set(found.left_out) == {"no exposure"}
    assert set(found.equal_share.values()) == {1.0}
    assert made.manifest.recipe_config["ranker"]["features"] == "logged"
    assert f"{found.num_lists} shown lists" in (made.folder / "MODEL_CARD.md").read_text()
    figures = {figure.name: figure.value for figure in record_of(made.folder).figures}
    assert figures["logged_features/num_lists"] == found.num_lists
    assert figures["logged_features/left_out/no_exposure"] == found.left_out["no exposure"]
    recall = made.verdict.tables["repeats_allowed"]["served"].by_user["recall"].mean
    assert recall > 0
