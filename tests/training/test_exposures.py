"""Exposures: joined before they happened, learned by both losses, judged without places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.catalogue import build_catalogue
from recsys.data.impressions import LabelRule
from recsys.data.item_tokens import item_tokens
from recsys.errors import InputError
from recsys.features.history import ItemHistory, open_rows
from recsys.models.config import Aspect, RankerConfig
from recsys.models.grouped_softmax import grouped_softmax
from recsys.models.item_table import ItemTable
from recsys.models.losses import listwise_softmax
from recsys.models.ranker import Ranker
from recsys.models.serving_model import Candidates
from tests.bundle.test_bundle import small_plan
from training.exposure_intervals import auc_interval, grouped_auc_interval
from training.exposure_steps import ExposureSteps, ExposureTraining, calibrate, scores_of
from training.exposures import ExposureData, read_exposures, with_meetings
from training.item_statics import item_statics
from training.loop import NoCheckpoints, Run, World
from training.progress import Progress

T0 = 1_650_000_000_000
CONFIG = RankerConfig(
    hidden_size=16, num_factors=2, token_size=4, num_token_buckets=64, num_item_tokens=3,
    item_identities=True, attention_heads=1, attention_size=4, num_experts=2, num_positions=2,
    one_logit=True, is_calibrated=True,
)  # fmt: skip


ASPECTS = (Aspect(keys=("colour",), size=2), Aspect(keys=("category", "born"), size=20))


def log(num_lists: int = 40) -> pl.DataFrame:
    """Lists of two: whoever's number is even clicks the first item when it is red."""
    rows: list[dict[str, object]] = [
        {
            "kind": "item", "event_id": f"item-{name}", "event_time_ms": T0, "item_id": name,
            "category": "things", "attributes": f'{{"colour": "{colour}"}}',
        }
        for name, colour in (("a", "red"), ("b", "blue"), ("c", "red"), ("d", "blue"))
    ]  # fmt: skip
    for n in range(num_lists):
        user, at = f"u{n % 4}", T0 + (n + 1) * 10_000
        items = [["a", "b"], ["d", "c"]][n % 2]
        rows.append(
            {
                "kind": "impression", "event_id": f"i{n}", "event_time_ms": at, "user_id": user,
                "request_id": f"r{n}", "items": items, "first_position": 0,
                "context": f'{{"tab": "{n % 2}"}}',
            }
        )  # fmt: skip
        if n % 2 == 0:
            rows.append(
                {
                    "kind": "interaction", "event_id": f"c{n}", "event_time_ms": at + 5,
                    "user_id": user, "item_id": items[0], "request_id": f"r{n}", "type": "click",
                    "value": 1.0,
                }
            )  # fmt: skip
    return pl.from_dicts(
        rows,
        schema={
            "kind": pl.String, "event_id": pl.String, "event_time_ms": pl.Int64,
            "user_id": pl.String, "item_id": pl.String, "request_id": pl.String,
            "type": pl.String, "value": pl.Float64, "items": pl.List(pl.String),
            "first_position": pl.Int32, "context": pl.String, "category": pl.String,
            "attributes": pl.String,
        },
    )  # fmt: skip


def read(frame: pl.DataFrame, aspects: Sequence[Aspect] = ()) -> ExposureData:
    catalogue = build_catalogue(frame)
    return read_exposures(
        frame, catalogue, small_plan(), [LabelRule(objective="click", interaction="click")],
        attribution_ms=1_000, history_length=4, num_tokens=2, request_keys=("tab",),
        num_item_tokens=3, has_id=np.arange(catalogue.vocabulary.num_items + 1) > 0,
        aspects=aspects, taste_counts=(0, 1), progress=Progress(),
    )  # fmt: skip


def fitted(data: ExposureData, *, epochs: int, seed: int = 0) -> Ranker:
    torch.manual_seed(seed)
    ranker = Ranker(CONFIG, data.dimensions, ItemTable(data.statics), embedding_size=0)
    rows = data.exposures
    steps = ExposureSteps(
        ranker, rows, rows.user, ExposureTraining(epochs=epochs, learning_rate=0.02), World()
    )
    Run(seed=seed, world=World(), checkpoints=NoCheckpoints()).train(steps.phase("ranker"))
    return ranker


def test_features_are_those_of_just_before_the_list() -> None:
    data = read(log())
    rows = data.exposures
    clicks_a = rows.activity[:, 0, 0][rows.item[:, 0] == 1]
    assert clicks_a.tolist() == list(range(20))  # the n-th has seen n clicks, not its own
    first_of_user = torch.tensor([int((rows.user == u).nonzero()[0]) for u in range(4)])
    assert (rows.context["history_index"][first_of_user] == 0).all()
    assert rows.context["user_tokens"].shape == (40, 2)
    assert rows.context["request_tokens"].shape == (40, 1)
    assert rows.context["request_tokens"].unique().numel() == 2
    assert rows.position.tolist() == [[0, 1]] * 40


def test_what_comes_later_changes_no_earlier_exposure() -> None:
    short, long = (
        read(with_meetings(log(size), "watch"), ASPECTS).exposures.take(torch.arange(20))
        for size in (20, 40)
    )
    for name in ("item", "position", "label", "activity", "cross"):
        assert torch.equal(getattr(short, name), getattr(long, name)), name
    for name, values in short.context.items():
        assert torch.equal(values, long.context[name]), name


def test_tastes_are_what_serving_computes_from_the_items_in_force() -> None:
    frame = with_meetings(log(), "watch")
    data, vocabulary = read(frame, ASPECTS), build_catalogue(frame).vocabulary
    config = replace(CONFIG, aspects=ASPECTS, taste_counts=(0, 1))
    ranker = Ranker(config, data.dimensions, ItemTable(data.statics), embedding_size=0)
    items = ItemHistory(open_rows(frame, small_plan()), small_plan(), vocabulary)
    rows = data.exposures
    everything = np.arange(vocabulary.num_items + 1)
    for n in (0, 7, 39):
        moment = np.full(len(everything), int(rows.time_ms[n]) - 1)
        activity = torch.from_numpy(items.activity_of_pairs(everything, moment))
        user = {name: values[n : n + 1] for name, values in rows.context.items()}
        user["user_category"] = torch.zeros(
            1, data.dimensions.num_categories, data.dimensions.num_category_features
        )
        candidates = Candidates(rows.item[n : n + 1], torch.zeros(1, 2, 0))
        found = ranker.cross_features(user, candidates, activity)[0]
        torch.testing.assert_close(found[:, -2:], rows.cross[n, :, -2:])
    assert (rows.cross[:4, :, -2:] == 0).all()  # nobody has a history yet
    assert rows.cross[8:, :, -2].abs().min() > 0


def test_the_ranker_learns_what_is_clicked_and_says_how_often() -> None:
    data = read(log())
    ranker = fitted(data, epochs=25)
    calibrate(ranker, data.exposures)
    output = scores_of(ranker, data.exposures)
    probability = output.probability.sigmoid()[..., 0]
    label = data.exposures.label[..., 0]
    assert probability[label == 1].min() > probability[label == 0].max()
    assert abs(float(probability.mean() - label.mean())) < 0.02
    placed = scores_of(ranker, data.exposures, with_position=True)
    assert not torch.allclose(placed.order, output.order)


@pytest.mark.parametrize("num_experts", [0, 2])
def test_a_ranker_that_starts_at_zero_prefers_nothing_until_it_has_learned(num_experts) -> None:
    data = read(log())
    torch.manual_seed(0)
    config = replace(CONFIG, num_experts=num_experts)
    ranker = Ranker(config, data.dimensions, ItemTable(data.statics), embedding_size=0)
    rows = data.exposures
    training = ExposureTraining(epochs=25, learning_rate=0.02, zero_start=True)
    steps = ExposureSteps(ranker, rows, rows.user, training, World())
    begins = scores_of(ranker, rows).order
    rate = rows.label.mean(dim=(0, 1))
    torch.testing.assert_close(begins, torch.logit(rate).expand_as(begins))
    Run(seed=0, world=World(), checkpoints=NoCheckpoints()).train(steps.phase("ranker"))
    learned = scores_of(ranker, rows).order[..., 0]
    label = rows.label[..., 0]
    assert learned[label == 1].min() > learned[label == 0].max()


def test_the_same_seed_gives_the_same_ranker() -> None:
    data = read(log(12))
    one, two = (fitted(data, epochs=2).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("clicked", "found"), [("none", 0), ("all", 80)])
def test_an_objective_of_one_class_is_refused(clicked: str, found: int) -> None:
    frame = log()
    acts = frame.filter(pl.col("kind") == "interaction")
    others = frame.filter(pl.col("kind") != "interaction")
    if clicked == "all":
        shown = others.filter(pl.col("kind") == "impression").explode("items")
        acts = shown.with_columns(
            kind=pl.lit("interaction"), event_id=pl.concat_str("event_id", "items"),
            item_id="items", type=pl.lit("click"), value=pl.lit(1.0),
            items=pl.lit(None, pl.List(pl.String)),
        )  # fmt: skip
        frame = pl.concat([others, acts.select(others.columns)])
    else:
        frame = others
    with pytest.raises(InputError, match=f'"click".*both classes, found {found} "click" for 80'):
        read(frame)


def test_a_log_that_shows_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="shows no item"):
        read(log().filter(pl.col("kind") != "impression"))


def test_what_was_seen_and_left_is_in_the_history_too() -> None:
    frame = log(9)
    plain, met = read(frame).exposures, read(with_meetings(frame, "watch")).exposures
    last = {name: values[8] for name, values in met.context.items()}  # u0's third list
    seen = dict(zip(last["history_index"].tolist(), last["history_count"].tolist(), strict=True))
    assert seen == {0: 0.0, 2: 2.0, 1: 4.0}  # "b" was shown twice, "a" shown and clicked twice
    assert (plain.context["history_index"][8] > 0).sum() == 1
    assert torch.equal(plain.label, met.label) and torch.equal(plain.item, met.item)


def test_grouped_softmax_is_the_listwise_loss_of_each_list() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=generator)
    labels = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
    group = torch.arange(3).repeat_interleave(4)
    found = grouped_softmax(logits.reshape(-1, 1), labels.reshape(-1, 1), group, 3)
    # The last list has one class: it is left out here and has to be taken out there.
    rows = slice(0, 2)
    mask = torch.ones(2, 4, dtype=torch.bool)
    wanted = listwise_softmax(logits[rows], labels[rows], mask, torch.zeros(2, 4)) * 2 / 12
    torch.testing.assert_close(found[0], wanted)


def test_tokens_of_few_items_count_in_comparisons_alone() -> None:
    catalogue = build_catalogue(log())  # four things, two of each colour
    statics = item_statics(
        catalogue, num_item_tokens=3, content_size=32, has_id=np.ones(5, dtype=np.bool_)
    )
    assert statics.tokens is not None and statics.content is not None
    assert statics.tokens[1:].unique().numel() == 2  # "category=things" and padding
    same, other = statics.content[1] @ statics.content[3], statics.content[1] @ statics.content[2]
    assert same > 0.99 > other


def test_numbers_become_tokens_of_their_size() -> None:
    near = item_tokens("", '{"length": 87.0}'), item_tokens("", '{"length": 90.0}')
    assert near[0] == near[1] != item_tokens("", '{"length": 900.0}')
    assert item_tokens("c", None) == ("category=c",)


def test_intervals_hold_the_figure_and_narrow_with_users() -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(400), 5)
    label = rng.random(2000) < 0.4
    score = label * 0.5 + rng.normal(size=2000)
    for interval in (auc_interval, grouped_auc_interval):
        low, high = interval(score, label, user, rng=np.random.default_rng(1))
        few = interval(score[:400], label[:400], user[:400], rng=np.random.default_rng(1))
        assert 0.55 < low < 0.6376 < high < 0.72, interval  # Phi(0.5 / sqrt 2)
        assert high - low < few[1] - few[0]
