"""What surrounds a request: from its context to the ranker, in training as in serving."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.errors import ConfigurationError, InputError
from recsys.features.names import token_hash
from recsys.feedback.exposure import Exposure
from recsys.feedback.logging_bundles import logging_bundles
from recsys.inference.compute import answer
from recsys.models.request_tokens import REQUEST_TOKENS, request_tokens
from tests.bundle.test_bundle import small_plan
from tests.training.answered_world import (
    QUIET,
    Answered,
    answers,
    context_rows,
    simulated_log,
    source_of,
    trained,
)
from training.prepare import prepare
from training.recipes import Recipe, debug

KEYS = ("tab", "device")


def recipe(features: str = "joined", keys: tuple[str, ...] = KEYS, token_size: int = 8) -> Recipe:
    base = debug()
    return replace(
        base, request_keys=keys,
        ranker_model=replace(base.ranker_model, token_size=token_size, num_token_buckets=64),
        ranker=replace(base.ranker, features=features),
    )  # fmt: skip


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    """Lists shown on three tabs; the device is said of every second one."""
    events = simulated_log()
    number = pl.int_range(pl.len())
    said = [
        json.dumps({"tab": f"tab-{n % 3}", **({"device": "phone"} if n % 2 else {})})
        for n in range(len(events))
    ]
    return events.with_columns(
        pl.when(pl.col("kind") == "impression")
        .then(pl.Series(said).gather(number))
        .otherwise(pl.col("context"))
        .alias("context")
    )


@pytest.fixture(scope="module")
def world(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """Answered by a bundle that looks at both keys."""
    folder = tmp_path_factory.mktemp("answered") / "bundles"
    made = trained(source_of(log, None, small_plan()), folder, recipe())
    [bundle] = logging_bundles(folder, [made.manifest.bundle_id]).values()
    contexts = [json.loads(c) for c in log.filter(pl.col("kind") == "impression")["context"]]
    tokens = request_tokens(contexts, bundle.encoding.request_keys)
    exposures = [
        replace_features(one, tokens[row : row + 1])
        for row, one in enumerate(answers(log, small_plan(), bundle))
    ]
    return Answered(
        log=log, plan=small_plan(), bundle_dir=folder, bundle=bundle, exposures=exposures
    )


def replace_features(exposure: Exposure, tokens: np.ndarray) -> Exposure:
    more = Exposure.tensors({REQUEST_TOKENS: tokens})
    fields = {name: getattr(exposure, name) for name in exposure.__struct_fields__}
    return Exposure(**{**fields, "features": {**exposure.features, **more}})


def prepared(world: Answered, wanted: Recipe, folder: Path | None = None):
    exposures = None if folder is None else world.logged(folder)
    source = source_of(world.log, exposures, world.plan)
    return prepare(
        source.log, source.plan, wanted, source.objectives, test_from_ms=None, progress=QUIET,
        exposures=exposures,
    )[0]  # fmt: skip


def test_hashes_of_what_is_said_and_nothing_of_what_is_not() -> None:
    found = request_tokens([{"tab": "home", "other": "x"}, {}], KEYS)
    assert found.tolist() == [[token_hash("tab=home"), 0], [0, 0]]
    assert request_tokens([], KEYS).shape == (0, 2)


def test_each_list_is_learned_with_what_its_impression_said(world: Answered) -> None:
    found = torch.cat(
        [question.context[REQUEST_TOKENS] for question in prepared(world, recipe()).rounds]
    )
    tabs = {token_hash(f"tab=tab-{n}") for n in range(3)}
    assert set(found[:, 0].tolist()) == tabs
    assert set(found[:, 1].tolist()) == {0, token_hash("device=phone")}


def test_logged_and_joined_say_the_same_of_requests(world: Answered, tmp_path: Path) -> None:
    joined = prepared(world, recipe())
    logged = prepared(world, recipe("logged"), tmp_path)
    assert context_rows(logged.rounds) == context_rows(joined.rounds)
    # A key that the bundle which answered did not look at cannot be made up.
    with pytest.raises(InputError, match=r"request_keys: wanted .* says page"):
        prepared(world, recipe("logged", keys=("tab", "page")), tmp_path / "again")


def test_the_served_ranker_looks_at_the_request(world: Answered) -> None:
    store = BundleStore(world.bundle_dir)
    folder = store.path(world.bundle.bundle_id)
    manifest, model = read_manifest(folder), load_serving_model(folder)
    d = manifest.dimensions
    assert manifest.encoding.request_keys == KEYS and d.num_request_tokens == 2
    inputs = {
        "history_index": torch.zeros(3, d.history_length, dtype=torch.int32),
        "history_count": torch.zeros(3, d.history_length),
        "history_age_s": torch.zeros(3, d.history_length),
        "user_tokens": torch.zeros(3, d.num_tokens, dtype=torch.int64),
        "user_dense": torch.zeros(3, d.num_user_features),
        "user_category": torch.zeros(3, d.num_categories, d.num_category_features),
        "candidate_index": torch.arange(1, 11, dtype=torch.int32).expand(3, -1),
    }
    said = request_tokens([{}, {"tab": "tab-0"}, {"tab": "tab-1", "device": "phone"}], KEYS)
    given = answer(model, {**inputs, REQUEST_TOKENS: torch.from_numpy(said)}, num_candidates=10)
    silent = answer(model, inputs, num_candidates=10)
    assert torch.equal(given["score"][0], silent["score"][0])  # nothing said is no token
    assert not torch.equal(given["score"][1], silent["score"][1])
    assert not torch.equal(given["score"][2], given["score"][1])


def test_keys_that_nothing_could_learn_are_refused(world: Answered) -> None:
    with pytest.raises(InputError, match=r"request_keys: wanted .* says page, found none among"):
        prepared(world, recipe(keys=("tab", "page")))
    source = source_of(world.log, None, world.plan)
    quiet = source.log.filter(pl.col("kind") != "impression")
    with pytest.raises(InputError, match=r"request_keys: wanted .* says tab, device"):
        prepare(quiet, source.plan, recipe(), source.objectives, test_from_ms=None, progress=QUIET)
    with pytest.raises(
        ConfigurationError, match="request_keys want embeddings, found token_size 0"
    ):
        trained(source, world.bundle_dir.parent / "refused", recipe(token_size=0))
