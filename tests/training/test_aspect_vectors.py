"""Vectors of what items are made of: cosines where they fit, the same in every run."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from recsys.data.catalogue import build_catalogue
from recsys.errors import ConfigurationError
from recsys.models.config import Aspect
from training.aspect_vectors import aspect_vectors, latent_vectors

YEAR_MS = 31_556_952_000
SAID = [["red", "big"], ["red", "big", "big"], ["red", "soft"], ["loud"], [], ["big", "own"]]


def cosine(a: list[str], b: list[str]) -> float:
    def weights(tokens: list[str]) -> dict[str, float]:
        return {t: math.log(len(SAID) / sum(t in s for s in SAID)) for t in set(tokens)}

    one, other = weights(a), weights(b)
    norm = math.sqrt(sum(w * w for w in one.values()) * sum(w * w for w in other.values()))
    shared = {t for t in one.keys() & other.keys() if sum(t in s for s in SAID) > 1}
    return sum(one[t] * other[t] for t in shared) / norm if norm else 0.0


def test_with_few_tokens_products_are_cosines_of_tf_idf() -> None:
    vectors = latent_vectors(SAID, 4)
    assert vectors.shape == (7, 4) and (vectors[0] == 0).all()
    for row, a in enumerate(SAID, start=1):
        for column, b in enumerate(SAID, start=1):
            assert float(vectors[row] @ vectors[column]) == pytest.approx(cosine(a, b), abs=1e-6)


def test_with_many_they_are_the_nearest_and_the_same_again() -> None:
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(0, 8, (300,), generator=generator).tolist()
    extra = torch.randint(0, 400, (300, 3), generator=generator).tolist()
    said = [
        [f"kind{k}-{n}" for n in range(6)] + [f"own{x}" for x in xs]
        for k, xs in zip(kind, extra, strict=True)
    ]
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    vectors = latent_vectors(said, 16)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(latent_vectors(said, 16), vectors)
    whole = latent_vectors(said, 1000)
    exact, found = (v[1:] @ v[1:].T for v in (whole, vectors))
    best = torch.linalg.svdvals(whole)[16:].square().square().sum().sqrt()
    assert (found - exact).norm() < 1.2 * best  # Eckart and Young: none of rank 16 is nearer


def test_an_aspect_nobody_has_is_refused_and_years_are_near_each_other() -> None:
    frame = pl.from_dicts(
        [
            {
                "kind": "item", "event_id": f"e{n}", "event_time_ms": 60 * YEAR_MS,
                "item_id": f"i{n}", "born_ms": year * YEAR_MS + YEAR_MS // 2, "title": title,
                "attributes": f'{{"colour": "{colour}"}}', "offset": n, "ingest_time_ms": 0,
                "topic": "t", "partition": 0,
            }
            for n, (year, colour, title) in enumerate(
                [(10, "red", "A hat"), (12, "blue", "a HAT"), (40, "red", "a shoe"), (41, "x", "b")]
            )
        ]
    )  # fmt: skip
    catalogue = build_catalogue(frame)
    born, words = Aspect(keys=("born",), size=64), Aspect(keys=("text",), size=8)
    vectors = aspect_vectors(catalogue, [born, Aspect(keys=("colour",), size=3), words])
    assert vectors is not None and vectors.shape == (5, 75)
    year, colour, text = (v @ v.T for v in vectors.split([64, 3, 8], dim=1))
    assert year[1, 2] > 0.6 and year[3, 4] > 0.6 and year[1, 3] == 0
    assert colour[1, 3] == pytest.approx(1.0) and colour[1, 2] == 0
    assert text[1, 2] > 0.2 and text[1, 4] == 0
    assert aspect_vectors(catalogue, []) is None
    with pytest.raises(ConfigurationError, match='wanted items with "color", found colour'):
        aspect_vectors(catalogue, [Aspect(keys=("colour", "color"), size=3)])
