"""The ranker's parts: split and unsplit agree, places are left out in serving, calibration fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.errors import BundleError, ConfigurationError
from recsys.models.calibration import Calibration
from recsys.models.config import Aspect, RankerConfig
from recsys.models.content import content_match, content_vectors
from recsys.models.experts import MultiGateExperts
from recsys.models.item_table import ItemStatics, ItemTable
from recsys.models.position_bias import PositionBias
from recsys.models.ranker import Ranker
from recsys.models.rates import Rates, rate_columns
from recsys.models.serving_model import Candidates
from recsys.models.signature import Dimensions
from recsys.models.target_attention import TargetAttention
from recsys.models.token_embedding import TokenEmbedding
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import make_debug_bundle

N, H, B, C = 30, 6, 3, 7

ASPECTS = (Aspect(keys=("category",), size=2), Aspect(keys=("text", "born"), size=3))
CONFIGS = st.builds(
    RankerConfig,
    hidden_size=st.sampled_from([8, 16]),
    num_crosses=st.integers(0, 2),
    num_factors=st.sampled_from([1, 4]),
    token_size=st.sampled_from([4, 8]),
    num_token_buckets=st.just(50),
    num_item_tokens=st.sampled_from([0, 5]),
    item_identities=st.booleans(),
    attention_heads=st.integers(0, 2),
    attention_size=st.just(4),
    num_experts=st.integers(0, 3),
    num_positions=st.sampled_from([0, 4]),
    user_rates=st.sampled_from([(), ((0, 1), (2, 1))]),
    item_rates=st.sampled_from([(), ((1, 0),)]),
    content_size=st.sampled_from([0, 8]),
    aspects=st.sampled_from([(), ASPECTS]),
    taste_counts=st.just((1, 0)),
    one_logit=st.booleans(),
    is_calibrated=st.booleans(),
)
EVERYTHING = RankerConfig(
    hidden_size=16, token_size=8, num_token_buckets=50, num_item_tokens=5, item_identities=True,
    attention_heads=2, attention_size=4, num_experts=3, num_positions=4, is_calibrated=True,
    user_rates=((0, 1),), item_rates=((1, 0),), content_size=8, aspects=ASPECTS,
    taste_counts=(1, 0),
)  # fmt: skip


def dimensions(num_objectives: int = 2) -> Dimensions:
    return Dimensions(
        history_length=H, num_tokens=3, num_user_features=4, num_categories=2,
        num_category_features=1, num_item_features=3,
        objectives=tuple("abc"[:num_objectives]), sources=("popular",),
    )  # fmt: skip


def ranker_of(config: RankerConfig, *, seed: int = 0, embedding_size: int = 5) -> Ranker:
    torch.manual_seed(seed)
    tokens = torch.randint(1, 40, (N + 1, 5))
    table = ItemTable(
        ItemStatics(
            category=torch.arange(N + 1) % 3,
            price=torch.rand(N + 1) * 9 - 1,
            text=torch.ones(N + 1, 3, dtype=torch.int64),
            has_id=torch.arange(N + 1) % 4 > 0,
            tokens=tokens if config.num_item_tokens else None,
            content=content_vectors(tokens, config.content_size) if config.content_size else None,
            aspects=torch.rand(N + 1, 5) if config.aspects else None,
        )
    )
    ranker = Ranker(config, dimensions(), table, embedding_size)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return ranker.eval()


def inputs(seed: int, embedding_size: int = 5, size: int = B) -> tuple[dict[str, Tensor], ...]:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    length = torch.randint(0, H + 1, (size, 1), generator=generator)
    index = torch.stack([torch.randperm(N, generator=generator)[:H] + 1 for _ in range(size)])
    used = torch.arange(H) >= H - length
    user = {
        "history_index": index * used,
        "history_count": (rand(size, H) * 4).ceil() * used,
        "history_age_s": rand(size, H) * 1e6 * used,
        "user_tokens": torch.randint(0, 10**9, (size, 3), generator=generator),
        "user_dense": rand(size, 4) * 9,
        "user_category": (rand(size, 2, 1) * 5).floor(),
    }
    items = {"vectors": rand(N + 1, embedding_size) - 0.5, "activity": rand(N + 1, 3) * 20}
    shown = torch.stack([torch.randperm(N, generator=generator)[:C] + 1 for _ in range(size)])
    shown[0, -1] = 0
    candidates = {"index": shown, "score": rand(size, C, 1), "user": rand(size, embedding_size)}
    return user, items, candidates


@settings(max_examples=10)
@given(config=CONFIGS)
def test_begun_at_zero_every_candidate_has_the_same_score(config: RankerConfig) -> None:
    ranker = ranker_of(config)
    user, items, candidates = (
        {n: v.float() if v.is_floating_point() else v for n, v in part.items()}
        for part in inputs(1)
    )  # fmt: skip
    asked = Candidates(candidates["index"], candidates["score"])
    asking = (user, candidates["user"], items["vectors"], items["activity"], asked)
    order = ranker(*asking).order
    assert (order - order[:1, :1]).abs().max() > 1e-3
    ranker.start_at_zero()
    order = ranker(*asking).order
    assert torch.equal(order, order[:1, :1].expand_as(order))


@settings(max_examples=30)
@given(config=CONFIGS, embedding_size=st.sampled_from([0, 5]), seed=st.integers(0, 1000))
def test_split_and_unsplit_agree(config: RankerConfig, embedding_size: int, seed: int) -> None:
    # In float64, where what is left of a real difference is 1e7 times its rounding. The products
    # are the same, but a BLAS may add them up in another order when there are other numbers of
    # rows, so the last bits may differ.
    ranker = ranker_of(config, seed=seed, embedding_size=embedding_size).double()
    user, items, candidates = inputs(seed, embedding_size)
    split = ranker.item_half(items["activity"], items["vectors"])
    everyone = Candidates(candidates["index"], candidates["score"])
    together = ranker.combine(
        ranker.user_half(user, candidates["user"], split), split, candidates["index"],
        ranker.cross_features(user, everyone, items["activity"]),
    )  # fmt: skip
    for b in range(B):
        # Unsplit: this one user, each candidate by itself, everything computed for it anew.
        own = {name: values[b : b + 1] for name, values in user.items()}
        for c in range(C):
            index = candidates["index"][b : b + 1, c : c + 1]
            alone = ranker(
                own, candidates["user"][b : b + 1], items["vectors"], items["activity"],
                Candidates(index, candidates["score"][b : b + 1, c : c + 1]),
            )  # fmt: skip
            for one, of_all in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0, 0], of_all[b, c], rtol=1e-11, atol=1e-11)


def test_in_float32_split_and_unsplit_differ_by_rounding_alone() -> None:
    ranker = ranker_of(EVERYTHING)
    user, items, candidates = inputs(3)
    user, items, candidates = (
        {k: v.float() if v.is_floating_point() else v for k, v in part.items()}
        for part in (user, items, candidates)
    )
    every = Candidates(candidates["index"], candidates["score"])
    together = ranker(user, candidates["user"], items["vectors"], items["activity"], every)
    for c in range(C):
        alone = ranker(
            user, candidates["user"], items["vectors"], items["activity"],
            Candidates(candidates["index"][:, c : c + 1], candidates["score"][:, c : c + 1]),
        )  # fmt: skip
        torch.testing.assert_close(alone.order[:, 0], together.order[:, c], rtol=1e-4, atol=1e-4)


def test_item_rows_of_several_moments_are_those_of_each_moment() -> None:
    ranker = ranker_of(EVERYTHING).double()
    user, items, candidates = inputs(5)
    later = items["activity"] * 3
    halves = [ranker.item_half(a, items["vectors"]) for a in (items["activity"], later)]
    rows = torch.tensor([4, 9, 4])
    activity = torch.stack([items["activity"][4], items["activity"][9], later[4]])
    mixed = ranker.item_half(activity, items["vectors"], rows)
    torch.testing.assert_close(mixed.projected[1], halves[0].projected[9])
    torch.testing.assert_close(mixed.projected[2], halves[1].projected[4])
    torch.testing.assert_close(mixed.factors[2], halves[1].factors[4])
    cross = ranker.cross_features(
        user,
        Candidates(rows.repeat(B, 1), torch.zeros(B, 3, 1, dtype=torch.float64)),
        items["activity"],
    )
    half = ranker.user_half(user, candidates["user"], mixed)
    place = torch.arange(3).repeat(B, 1)
    found = ranker.combine(half, mixed, place, cross, item_index=rows.repeat(B, 1))
    wanted = ranker.combine(half, halves[1], rows[2:].repeat(B, 1), cross[:, 2:])
    torch.testing.assert_close(found.order[:, 2:], wanted.order)


def test_serving_does_not_see_places() -> None:
    ranker = ranker_of(EVERYTHING)
    user, items, candidates = (
        {k: v.float() if v.is_floating_point() else v for k, v in part.items()}
        for part in inputs(7)
    )
    every = Candidates(candidates["index"], candidates["score"])
    given = (user, candidates["user"], items["vectors"], items["activity"], every)
    before = ranker(*given)
    half = ranker.item_half(items["activity"], items["vectors"])
    arguments = (
        ranker.user_half(user, candidates["user"], half), half, candidates["index"],
        ranker.cross_features(user, every, items["activity"]),
    )  # fmt: skip
    shown = ranker.combine(*arguments, position=torch.arange(C).repeat(B, 1))
    unknown = ranker.combine(*arguments, position=torch.full((B, C), -1))
    assert not torch.allclose(shown.order, before.order)
    assert torch.equal(unknown.order, ranker.combine(*arguments).order)
    with torch.no_grad():
        ranker.position.logit.add_(100 * torch.randn_like(ranker.position.logit))
    assert torch.equal(ranker(*given).order, before.order)
    assert torch.equal(ranker(*given).probability, before.probability)


def test_places_add_nothing_on_average() -> None:
    bias = PositionBias(3, 1, dropout=0.0).eval()
    shown = torch.tensor([[0, 0, 1, 2, 2, 2]])
    bias.fit(torch.cat([shown, torch.full((1, 6), -1)]))
    with torch.no_grad():
        bias.logit.copy_(torch.tensor([[3.0], [1.0], [-2.0]]))
    assert torch.isclose(bias(shown).mean(), torch.tensor(0.0), atol=1e-6)
    assert torch.equal(bias(torch.tensor([[7]])), bias(torch.tensor([[2]])))  # beyond the last


def test_a_place_takes_the_part_of_the_label_that_is_its_own() -> None:
    """Items are all alike and the first place is clicked: the items must not get the credit."""
    torch.manual_seed(0)
    bias = PositionBias(2, 1, dropout=0.0)
    item = torch.nn.Parameter(torch.zeros(2))
    shown = torch.tensor([[0, 1], [1, 0]] * 8)
    clicked = torch.tensor([[1.0, 0.0]] * 16)
    place = torch.tensor([[0, 1]] * 16)
    optimiser = torch.optim.Adam([*bias.parameters(), item], lr=0.1)
    for _ in range(100):
        logits = item[shown] + bias(place)[..., 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, clicked)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float((item[0] - item[1]).abs().detach()) < 1e-3
    assert float((bias.logit[0] - bias.logit[1]).detach()) > 2.0


def test_attention_by_hand() -> None:
    attention = TargetAttention(2, num_heads=1, head_size=2)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        for layer in (attention.query, attention.key, attention.value):
            layer.weight.copy_(torch.eye(2))
    items = attention.items(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    user = {
        "history_index": torch.tensor([[0, 1, 2], [0, 0, 0]]),
        "history_count": torch.ones(2, 3),
        "history_age_s": torch.zeros(2, 3),
    }
    found = attention(items.query[1:2].expand(2, 1, 2), attention.history(items, user))
    e = torch.tensor(2.0**-0.5).exp()
    total = e + 1 + 1  # the fitting item, the other one, and the place of logit 0
    wanted = torch.stack([e / total, 1 / total, total.log()])
    torch.testing.assert_close(found[0, 0], wanted)
    assert found[1].abs().max() < 1e-6  # nothing there: nothing added


def test_experts_mix_as_the_paper_says() -> None:
    torch.manual_seed(1)
    experts = MultiGateExperts(4, num_experts=3, num_objectives=2, dropout=0.0)
    inputs_ = torch.randn(5, 4)
    gates = experts.gates(inputs_).view(5, 2, 3).softmax(2)
    answers = torch.stack([expert(inputs_) for expert in experts.experts], dim=1)
    mixed = torch.einsum("box,bxk->bok", gates, answers)
    torch.testing.assert_close(experts(inputs_), (mixed * experts.towers).sum(2))


def test_tokens_are_summed_and_padding_adds_nothing() -> None:
    embedding = TokenEmbedding(10, 3)
    hashes = torch.tensor([[7, 0], [7, 12], [0, 0]])
    found = embedding(hashes)
    torch.testing.assert_close(found[1], found[0] + embedding(torch.tensor([[12]]))[0])
    assert (found[2] == 0).all()
    assert torch.isfinite(embedding(torch.tensor([[-(2**62)]]))).all()  # hashes are signed


def test_rates_of_few_are_drawn_to_the_mean() -> None:
    rates = Rates(((0, 1),))
    counts = torch.tensor([[1.0, 2.0], [100.0, 200.0], [0.0, 400.0], [0.0, 0.0]])
    rates.fit(counts)
    assert torch.isclose(rates.prior[0], torch.tensor(101 / 602))
    few, many, none, unseen = rates(counts)[:, 0].tolist()
    assert none < unseen < few < many
    assert rate_columns(["shown", "clicks"], [("clicks", "shown")]) == ((1, 0),)
    with pytest.raises(ConfigurationError, match=r"wanted of likes.*found shown, clicks"):
        rate_columns(["shown", "clicks"], [("likes", "shown")])


def test_content_is_alike_by_shared_rare_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 10**12, (200, 6), generator=generator)
    tokens[0] = 0
    tokens[:, 0] = 5  # all share it: it says nothing
    tokens[2, 1:4] = tokens[1, 1:4]
    vectors = content_vectors(tokens, 256)
    assert (vectors[0] == 0).all()
    assert abs(float(vectors[1] @ vectors[2]) - 0.6) < 0.15
    assert float((vectors[1] @ vectors[3:].T).abs().max()) < 0.35
    user = {
        "history_index": torch.tensor([[0, 3, 1], [0, 0, 0]]),
        "history_count": torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]),
    }
    found = content_match(vectors, user, torch.tensor([[2, 3], [2, 3]]))
    assert torch.isclose(found[0, 0, 1], vectors[1] @ vectors[2], atol=1e-5)
    assert torch.isclose(found[0, 1, 0], torch.tensor(1.0), atol=1e-5)
    assert (found[1] == 0).all()


def test_calibration_finds_slope_and_offset() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(20_000, 2, generator=generator)
    label = (torch.rand(true.shape, generator=generator) < true.sigmoid()).float()
    label[:, 1] = 1.0
    calibration = Calibration(2)
    calibration.fit(true * 2 + 3, label)
    assert torch.isclose(calibration.slope[0], torch.tensor(0.5), atol=0.03)
    assert torch.isclose(calibration.offset[0], torch.tensor(-1.5), atol=0.08)
    assert calibration.slope[1] == 1.0 and calibration.offset[1] == 0.0  # one class says nothing


def test_the_plain_ranker_has_the_weights_it_always_had() -> None:
    names = {n for n in ranker_of(RankerConfig()).state_dict() if not n.startswith("table.")}
    assert names == {
        "user_dense.mean", "user_dense.scale", "item_dense.mean", "item_dense.scale",
        "cross_scale.mean", "cross_scale.scale", "project_user.weight", "project_user.bias",
        "project_item.weight", "project_cross.weight", "user_factors.weight",
        "item_factors.weight", "crosses.0.weight", "crosses.0.bias", "crosses.1.weight",
        "crosses.1.bias", "deep.1.weight", "deep.1.bias", "deep.4.weight", "deep.4.bias",
        "direct.weight", "output.weight", "output.bias", "calibrate_slope",
        "calibrate_user.0.weight", "calibrate_user.0.bias", "calibrate_user.2.weight",
        "calibrate_user.2.bias",
    }  # fmt: skip


def test_a_ranker_with_every_part_is_trained_exported_and_served(tmp_path: Path) -> None:
    folder = make_debug_bundle(tmp_path, plan=small_plan(), ranker=EVERYTHING)
    model = load_serving_model(folder)
    d = model.dimensions
    history = torch.zeros(2, d.history_length, dtype=torch.int32)
    history[1, -3:] = torch.tensor([5, 6, 7])
    user = {
        "history_index": history, "history_count": (history > 0).float(),
        "history_age_s": torch.zeros(2, d.history_length),
        "user_tokens": torch.ones(2, d.num_tokens, dtype=torch.int64),
        "user_dense": torch.zeros(2, d.num_user_features),
        "user_category": torch.zeros(2, d.num_categories, d.num_category_features),
    }  # fmt: skip
    found = model.retrieve(
        user, num_candidates=20, exclude_index=torch.zeros(2, 0, dtype=torch.int32),
        exclude_history=torch.zeros(2, 1, dtype=torch.bool),
    )  # fmt: skip
    ranked = model.rank(user, found)
    assert torch.isfinite(ranked.score).all()
    assert ((ranked.objective_score > 0) & (ranked.objective_score < 1)).all()
    assert ranked.score[1].unique().numel() > 10


@pytest.mark.parametrize("option", ["num_item_tokens", "item_identities"])
def test_embeddings_without_a_width_are_refused(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}.*token_size"):
        ranker_of(RankerConfig(**{option: True}))


def test_a_bundle_from_before_the_options_keeps_its_id(tmp_path: Path) -> None:
    folder = make_debug_bundle(tmp_path, plan=small_plan())
    document = json.loads((folder / "manifest.json").read_bytes())
    first = ("hidden_size", "num_crosses", "num_factors", "dropout")
    assert set(document["ranker"]) > set(first)
    document["ranker"] = {name: document["ranker"][name] for name in first}
    (folder / "manifest.json").write_text(json.dumps(document))
    assert read_manifest(folder).ranker.attention_heads == 0
    document["ranker"]["num_experts"] = 2  # another model: another id
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="changed after training"):
        read_manifest(folder)
