"""Items that came after a bundle: embedded, found and ranked as if it had known them, offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.bundle.live_items import LiveItems
from recsys.bundle.manifest import read_manifest
from recsys.bundle.served import load_served_bundle
from recsys.compression.item_vectors import in_precision
from recsys.data.item_tokens import event_text
from recsys.data.text import word_buckets
from recsys.inference.compute import answer
from recsys.models.created_items import created_key
from recsys.models.filter_tokens import ItemFilter
from recsys.models.item_table import ItemStatics, ItemTable
from recsys.models.ranker import Ranker
from recsys.models.serving import TorchServingModel
from recsys.models.signature import CREATED_KEYS
from tests.bundle.test_bundle import small_plan
from tests.bundle.test_live_items import found, served, word
from tests.models.test_served_answers import users
from training.debug_bundle import make_debug_bundle

LATER_MS = 1_800_000_000_000
NEW = word(
    "new-1", title="red lantern", text="hand made", category="lantern", price=7.5,
    attributes={"land": "DE", "maker": 12},
)  # fmt: skip
ODD = word("new-2", category="never heard of", attributes={"land": "AT"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


def tables(folder: Path, model: TorchServingModel, changes: Sequence) -> ItemTable:
    """The bundle's table with the items at its end, written down by the catalogue's own rules."""
    config, old = read_manifest(folder).towers, model.ranker.table
    vocabulary = load_served_bundle(folder).vocabulary
    events = [change.event for change in changes]
    words = word_buckets(
        [event_text(e) for e in events],
        num_buckets=config.num_text_buckets, num_words=config.num_words,
    )  # fmt: skip
    columns = [vocabulary.category_index_of.get(e.category, 8) for e in events]
    prices = [-1.0 if e.price is None else e.price for e in events]
    return ItemTable(
        ItemStatics(
            category=torch.cat([old.category, torch.tensor(columns)]),
            price=torch.cat([old.price, torch.tensor(prices)]),
            text=torch.cat([old.text, torch.from_numpy(words)]),
            has_id=torch.cat([old.has_id, torch.zeros(len(events), dtype=torch.bool)]),
        )
    )


def test_created_items_score_as_the_towers_and_ranker_of_a_larger_catalogue_do(
    folder: Path,
) -> None:
    before, _ = served(folder)
    whole = tables(folder, before, [NEW, ODD])
    model, items = served(folder, room=10)
    items.apply([NEW, ODD])
    n = before.num_items
    assert model.num_items == n + 2
    # Offline: the same modules over the larger table, all at once.
    towers = model._towers
    own = torch.cat(
        [towers.items.identity.weight, torch.zeros(2, towers.items.identity.weight.shape[1])]
    )
    with torch.inference_mode():
        table, identity = towers.items.table, towers.items.identity
        towers.items.table, towers.items.identity = whole, torch.nn.Embedding.from_pretrained(own)
        vectors = towers.items()
        towers.items.table, towers.items.identity = table, identity
        ranker: Ranker = model.ranker
        activity = torch.zeros(n + 3, model.dimensions.num_item_features)
        activity[: n + 1] = before.items.resident.activity
        ranker.table = whole
        half = ranker.item_half(activity, vectors)
        ranker.table = table
    assert torch.allclose(model.item_vectors()[n + 1 :], vectors[n + 1 :], atol=1e-6)
    assert torch.equal(model.item_vectors()[: n + 1], before.item_vectors())
    assert torch.allclose(model.items.resident.half.projected, half.projected, atol=1e-5)
    assert torch.allclose(model.items.resident.half.factors, half.factors, atol=1e-5)
    # The bundle's own items score to the last bit as before.
    user = users(before, 3, seed=4)
    rows = torch.arange(1, 9).expand(3, -1)
    was, now = (m.rank(m.prepare(user), m.score_sources(user, rows)) for m in (before, model))
    assert torch.equal(was.score, now.score)
    # A created item is scored by its vector against the moments of the bundle's own items.
    asked = torch.full((3, 1), n + 1)
    cosine = model.user_vectors(user) @ vectors[n + 1]
    every = before.user_vectors(user) @ before.item_vectors()[1:].T
    wanted = (cosine - every.mean(1)) / every.std(1, unbiased=False)
    two_tower = model.dimensions.sources.index("two_tower")
    given = model.score_sources(user, asked).source_score[:, 0, two_tower]
    assert torch.allclose(given, wanted, atol=1e-3)


@pytest.mark.parametrize("search_from", [0, 10**9])
def test_created_items_are_found_filtered_withdrawn_and_offered_again(
    folder: Path, search_from: int
) -> None:
    model, items = served(folder, room=3)
    model.search_from_items = search_from
    every, n = found(model), model.num_items
    asked = ItemFilter.of(tags=["land=DE"])
    assert found(model, asked) == set()  # a filter that is remembered
    items.apply([NEW, NEW, ODD])  # at least once: again
    assert found(model) == every | {n + 1, n + 2}
    assert found(model, asked) == {n + 1}
    assert n + 1 in model.similar(torch.tensor([5]), k=200)[0][0].tolist()
    late = word("new-1", NEW.event.event_time_ms - 1, category="basket")
    items.apply([late, word("new-2", LATER_MS, available=False)])
    assert found(model) == every | {n + 1}
    items.apply([word("new-3", LATER_MS, available=False)])  # withdrawn before it was offered
    items.apply([word("new-3", LATER_MS - 1)])
    items.apply([word("new-2", LATER_MS + 1), word("item-3", LATER_MS, available=False)])
    gone = load_served_bundle(folder).vocabulary.index_of["item-3"]
    assert found(model) == (every | {n + 1, n + 2}) - {gone}


def test_there_is_an_end_to_the_room_and_it_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, items = served(folder, room=3)
    n = model.num_items
    items.apply([word(f"new-{i}") for i in range(7)])
    assert model.num_items == n + 3 and len(model.items.created) == 3
    assert caplog.text.count("found all 3 rows") == 1
    bundle = load_served_bundle(folder, room=3)
    LiveItems(bundle).apply([word(f"new-{i}") for i in range(7)])
    assert len(bundle.created) == 3 and caplog.text.count("found all 3 rows") == 2
    assert bundle.vocabulary.item_ids[n:] == ["new-0", "new-1", "new-2"]
    assert bundle.num_withdrawn == int((~load_served_bundle(folder).available[1:]).sum())


def test_what_is_described_anew_is_embedded_anew_and_what_is_not_stays(folder: Path) -> None:
    model, items = served(folder, room=3)
    frame = {r["item_id"]: r for r in _catalogue(folder)}
    before, halves = model.item_vectors().clone(), model.items.resident.half.projected.clone()
    index_of = load_served_bundle(folder).vocabulary.index_of
    same, other = frame["item-3"], frame["item-4"]
    items.apply(
        [
            word("item-3", title=same["title"], text=same["title"], category=same["category"],
                 price=same["price"]),
            word("item-4", title=other["title"], text=other["title"], category=other["category"],
                 price=other["price"] * 9),
        ]
    )  # fmt: skip
    moved = (model.item_vectors() != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [index_of["item-4"]]
    changed = (model.items.resident.half.projected != halves).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [index_of["item-4"]]
    assert bool(model.ranker.table.has_id[index_of["item-4"]]) == bool(
        served(folder)[0].ranker.table.has_id[index_of["item-4"]]
    )
    # Back to what it was: the same vector, up to the last bits of a sum.
    items.apply(
        [
            word("item-4", LATER_MS, title=other["title"], text=other["title"],
                 category=other["category"], price=other["price"])
        ]
    )  # fmt: skip
    assert torch.allclose(model.item_vectors(), before, atol=1e-6)


def _catalogue(folder: Path) -> list[dict]:
    from recsys.data.catalogue import read_catalogue_frame

    return read_catalogue_frame(folder / "catalogue.parquet").to_dicts()


def test_moving_features_are_taken_for_all_or_for_those_there_were_when_they_were_read(
    folder: Path,
) -> None:
    model, items = served(folder, room=3)
    n, width = model.num_items, model.dimensions.num_item_features
    items.apply([NEW])
    model.items.set_activity(torch.ones(n + 2, width), 5)
    items.apply([ODD])
    model.items.set_activity(2 * torch.ones(n + 2, width), 6)
    seen = model.items.activity_of(torch.tensor([[1, n + 1, n + 2]]))[0, :, 0].tolist()
    assert seen == [2.0, 2.0, 0.0] and model.items.activity_as_of_ms == 6
    items.apply([word("new-3")])
    assert model.num_items == n + 3


def test_calls_name_created_items_by_key_in_whatever_order_each_side_heard_of_them(
    folder: Path,
) -> None:
    model, items = served(folder, room=3)
    n = model.num_items
    items.apply([NEW])
    items.apply([ODD])
    inputs = {
        **users(served(folder)[0], 1, seed=1),
        "exclude_index": torch.zeros(1, 1, dtype=torch.int32),
        "exclude_history": torch.zeros(1, 1, dtype=torch.bool),
        "k": torch.full((1, 1), n + 2, dtype=torch.int32),
    }
    without = answer(model, inputs, num_candidates=500)
    assert CREATED_KEYS not in without and set(without["item_index"][0].tolist()) <= set(
        range(n + 1)
    )
    outputs = answer(
        model, {**inputs, CREATED_KEYS: torch.zeros(1, 1, dtype=torch.int64)}, num_candidates=500
    )
    index, keys = outputs["item_index"][0].tolist(), outputs[CREATED_KEYS][0].tolist()
    assert {keys[-i - 1] for i in index if i < 0} == {created_key("new-1"), created_key("new-2")}
    rank = {k: v for k, v in inputs.items() if k.startswith(("user", "hist", "request"))}
    keys = torch.tensor([[created_key("new-2"), created_key("nobody"), created_key("new-1")]])
    asked = torch.tensor([[-3, 7, -2, -1]], dtype=torch.int32)
    named = answer(model, {**rank, "candidate_index": asked, CREATED_KEYS: keys}, num_candidates=1)
    rows = torch.tensor([[n + 1, 7, 0, n + 2]], dtype=torch.int32)
    plain = answer(model, {**rank, "candidate_index": rows}, num_candidates=1)
    assert torch.equal(named["score"], plain["score"])
    assert named["score"].isfinite().tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "pq"])
def test_vectors_of_every_precision_take_in_others(precision: str) -> None:
    rows = torch.nn.functional.normalize(
        torch.randn(400, 16, generator=torch.manual_seed(1)), dim=1
    )
    rows[0] = 0.0
    vectors = in_precision(rows, precision)  # type: ignore[arg-type]
    before = vectors.decoded().clone()
    vectors.make_room(2)
    vectors.put(torch.tensor([400, 7, 401]), rows[[8, 8, 9]])
    assert len(vectors) == 402
    decoded: Tensor = vectors.decoded()
    assert torch.equal(decoded[[400, 7, 401]], before[[8, 8, 9]])
    assert torch.equal(decoded[8:400], before[8:])
    assert torch.allclose(vectors.scores(rows[1:3])[:, 400], vectors.scores(rows[1:3])[:, 8])
