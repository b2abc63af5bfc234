"""How an approximate index is set: for every kind of user, and for as many as a request wants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.errors import InputError
from recsys.retrieval.index_build import BuiltIndex, IndexConfig, build_index
from recsys.retrieval.index_recall import Truth, UserKind
from recsys.retrieval.vector_index import read_index
from tests.retrieval.test_vector_index import VECTORS, clouds

K = 500
WANTED = IndexConfig(recall=0.99, k=K)


def scattered(count: int, *, seed: int) -> Tensor:
    """Users who had six items drawn evenly, of any cloud."""
    generator = torch.Generator().manual_seed(seed)
    had = torch.randint(1, len(VECTORS), (count, 6), generator=generator)
    return F.normalize(VECTORS[had].mean(dim=1), dim=1)


def kinds(*, seed: int, scattered_are_held: bool = True) -> list[UserKind]:
    return [
        UserKind(name="gathered", vectors=clouds(100, seed=seed)),
        UserKind(
            name="scattered", vectors=scattered(100, seed=seed), is_held=scattered_are_held
        ),
    ]  # fmt: skip


def found(built: BuiltIndex) -> dict[str, float]:
    return {kind.name: kind.recall for kind in built.found}


@pytest.fixture(scope="module")
def for_all() -> BuiltIndex:
    return build_index(VECTORS, kinds(seed=11), WANTED)


def test_an_index_set_on_gathered_users_misses_what_scattered_ones_want(
    for_all: BuiltIndex,
) -> None:
    # A hundred wanted of users in one place: what was measured before scattered ones were asked.
    some = build_index(VECTORS, kinds(seed=11)[:1], replace(WANTED, k=100))
    others = Truth(VECTORS, kinds(seed=12), K)
    before = {kind.name: kind.recall for kind in others.recall(some.index)}
    after = {kind.name: kind.recall for kind in others.recall(for_all.index)}
    assert before["scattered"] < 0.96
    assert after["scattered"] > 0.985 and after["gathered"] > 0.985
    assert for_all.index.num_probes < for_all.index.num_cells


def test_every_kind_that_is_held_is_found_what_is_wanted(for_all: BuiltIndex) -> None:
    assert for_all.k == K and [kind.num_users for kind in for_all.found] == [100, 100]
    assert min(found(for_all).values()) >= 0.99
    again = Truth(VECTORS, kinds(seed=11), K).recall(for_all.index)
    assert again == for_all.found  # what is told is what a search finds


def test_a_kind_that_is_not_held_is_told_and_changes_nothing() -> None:
    wanted = replace(WANTED, k=20)
    both = build_index(VECTORS, kinds(seed=11, scattered_are_held=False), wanted)
    one = build_index(VECTORS, kinds(seed=11)[:1], wanted)
    assert both.index.num_probes == one.index.num_probes
    assert both.index.oversample == one.index.oversample
    told = both.found[1]
    assert not told.is_held and told.recall < 0.99 <= found(both)["gathered"]


def test_more_is_scored_anew_where_four_bits_err_and_more_cells_cannot_help() -> None:
    few = build_index(VECTORS, kinds(seed=11)[:1], IndexConfig(recall=0.9, k=20)).index
    many = build_index(VECTORS, kinds(seed=11)[:1], IndexConfig(recall=0.99, k=20)).index
    assert few.oversample < many.oversample


def test_nobody_to_measure_on_or_no_setting_that_finds_enough_is_refused() -> None:
    nobody = [UserKind(name="gathered", vectors=torch.zeros(0, VECTORS.shape[1]))]
    with pytest.raises(InputError, match="found none that it must hold for"):
        build_index(VECTORS, nobody, WANTED)
    with pytest.raises(InputError, match=r"wanted recall@20 1\.1 .* want an exact search"):
        build_index(VECTORS, kinds(seed=11), IndexConfig(recall=1.1, k=20))


def test_many_cells_are_chosen_by_codes_of_their_centres_and_as_many_are_found(
    tmp_path: Path,
) -> None:
    config = IndexConfig(recall=0.97, k=20)
    coded = replace(config, coded_from_cells=100)
    plain = build_index(VECTORS, kinds(seed=11), config)
    quick, again = (build_index(VECTORS, kinds(seed=11), coded) for _ in range(2))
    assert quick.index.num_cells == plain.index.num_cells > 100
    assert quick.index.num_probes == plain.index.num_probes
    assert min(found(quick).values()) >= 0.97
    for name, built in (("one", quick), ("two", again), ("plain", plain)):
        built.index.write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "plain").read_bytes()
    users = kinds(seed=13)[0].vectors
    read = read_index(
        tmp_path / "one", num_items=len(VECTORS) - 1, oversample=quick.index.oversample
    )
    assert torch.equal(read.search(users, 20), quick.index.search(users, 20))
    # By all cells the order of the codes is that of an index without: nothing is left out.
    for built in (quick, plain):
        built.index.set_to(num_probes=built.index.num_cells, oversample=4.0)
    rows, theirs = (built.index.search(users, 20).sort().values for built in (quick, plain))
    same = rows == theirs
    assert same.float().mean() > 0.99


def test_what_is_folded_into_coded_cells_is_found() -> None:
    coded = replace(IndexConfig(recall=0.97, k=20), coded_from_cells=100)
    index = build_index(VECTORS, kinds(seed=11), coded).index
    rows = torch.arange(1, 200, 2)
    moved = clouds(len(rows), seed=14)
    nearest = index.folded(rows, moved).search(moved, 1)
    assert (nearest == rows.unsqueeze(1)).any(dim=1).float().mean() > 0.95
