"""The catalogue's later words, in a bundle's names and lists and in its model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle.item_describer import ItemDescriber
from recsys.bundle.live_items import LiveItems
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.bundle.model_items import ModelItems
from recsys.bundle.served import load_served_bundle
from recsys.data.item_tokens import event_tokens
from recsys.data.vocabulary import GrowingVocabulary
from recsys.events.item_follower import ItemChange
from recsys.events.log import TopicPartition
from recsys.events.schema import ItemEvent
from recsys.models.filter_tokens import ALL_PASS, ItemFilter
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import Candidates
from recsys.ranking import filters
from tests.bundle.test_bundle import small_plan
from tests.inference.toy_bundle import toy_bundle
from tests.models.test_served_answers import users
from training.debug_bundle import make_debug_bundle

AT = TopicPartition("t.items", 0)


def word(item_id: str, at_ms: int = 1_700_000_000_000, **said: object) -> ItemChange:
    event = ItemEvent(event_id=f"{item_id}-{at_ms}", event_time_ms=at_ms, item_id=item_id, **said)  # type: ignore[arg-type]
    return ItemChange(AT, 0, event)


def test_withdrawn_and_offered_again() -> None:
    bundle = toy_bundle()
    items = LiveItems(bundle)
    items.apply([word("item-3", available=False), word("unknown", available=False)])
    rows = np.array([2, 3, 4], dtype=np.int32)
    assert filters.keep(rows, available=bundle.available, excluded=()).tolist() == [
        True,
        False,
        True,
    ]
    assert bundle.num_withdrawn == 1 and bundle.title[3] == "Item 3"
    items.apply([word("item-3", 1_700_000_000_001, title="New", category="tea")])
    assert bundle.available[3] and bundle.title[3] == "New" and bundle.category(3) == "tea"


def test_an_older_word_that_comes_later_changes_nothing() -> None:
    bundle = toy_bundle()
    items = LiveItems(bundle)
    items.apply([word("item-3", 1_700_000_000_005, available=False)])
    items.apply([word("item-3", 1_700_000_000_004, available=True)])
    assert not bundle.available[3]
    both = [word("item-4", 1_700_000_000_009, available=False), word("item-4", 1_700_000_000_002)]
    items.apply(both)
    assert not bundle.available[4]


def test_tags_are_those_of_the_latest_word() -> None:
    bundle = toy_bundle()
    LiveItems(bundle).apply([word("item-3", category="mugs", attributes={"land": ["DE", "AT"]})])
    rows = np.arange(1, 41, dtype=np.int32)

    def passing(**asked: list[str]) -> list[int]:
        return rows[filters.passing(rows, ItemFilter.of(**asked), bundle.tags)].tolist()

    assert passing(tags=["land=AT"]) == [3] == bundle.tags.rows("land=AT").tolist()
    assert 3 not in passing(categories=["books"]) and 3 in passing(categories=["mugs"])
    assert 6 in passing(categories=["books"])
    assert bundle.tags.rows("category=mugs").tolist() == passing(categories=["mugs"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


def found(model: TorchServingModel, asked: ItemFilter = ALL_PASS) -> set[int]:
    candidates: Candidates = model.retrieve(
        users(model, 1, seed=1), num_candidates=model.num_items,
        exclude_index=torch.zeros(1, 1, dtype=torch.int32),
        exclude_history=torch.zeros(1, 1, dtype=torch.bool),
        filters=torch.from_numpy(asked.pairs()).unsqueeze(0),
    )  # fmt: skip
    return set(candidates.item_index[0].tolist()) - {0}


def served(folder: Path, room: int = 0) -> tuple[TorchServingModel, ModelItems]:
    model = load_serving_model(folder, room=room)
    assert isinstance(model, TorchServingModel)
    vocabulary = GrowingVocabulary(load_served_bundle(folder).vocabulary)
    describer = ItemDescriber(folder, read_manifest(folder), vocabulary)
    return model, ModelItems(model, vocabulary, describer, room=room)


@pytest.mark.parametrize("search_from", [0, 10**9])
def test_a_model_finds_what_is_offered_and_nothing_withdrawn(
    folder: Path, search_from: int
) -> None:
    model, items = served(folder)
    model.search_from_items = search_from
    vocabulary = load_served_bundle(folder).vocabulary
    every = found(model)
    gone = sorted(every)[:7]
    items.apply([word(vocabulary.item_ids[row - 1], available=False) for row in gone])
    assert found(model) == every - set(gone)
    assert not set(model.similar(torch.tensor([gone[0]]), k=200)[0][0].tolist()) & set(gone)
    land = ItemFilter.of(tags=["land=DE"])
    assert found(model, land) == set()
    changed = [gone[0], sorted(every)[10]]
    back = [
        word(vocabulary.item_ids[row - 1], 1_800_000_000_000, attributes={"land": "DE"})
        for row in changed
    ]
    items.apply(back)
    assert found(model, land) == set(changed)
    assert found(model) == (every - set(gone)) | {gone[0]}


def test_many_withdrawals_leave_the_popular_order_whole(folder: Path) -> None:
    model = load_serving_model(folder)
    assert isinstance(model, TorchServingModel)
    model.search_from_items = 0
    every = sorted(found(model))
    for row in every[: len(every) // 2]:
        model.items.change([row], [False], {})
    assert found(model) == set(every[len(every) // 2 :])
    for row in every:
        model.items.change([row], [True], {})
    assert found(model) == set(every)


def test_tokens_of_an_event_are_those_the_catalogue_makes_of_the_log() -> None:
    event = word("a", category="toys", attributes={"weight": 87.0, "maker": 12, "new": True}).event
    assert event_tokens(event) == ("category=toys", "maker=12", "new=True", "weight~26")
