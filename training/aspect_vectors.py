"""What items are made of, seen from several sides: the vectors that tastes are compared by.

Axes: ``N`` items, ``V`` distinct tokens, ``S`` size of the vectors of all aspects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.data.catalogue import Catalogue
from recsys.data.text import words_of
from recsys.errors import ConfigurationError
from recsys.models.config import Aspect

YEARS_AROUND = 8
"""Items born up to twice as many years apart are still a little alike."""
_YEAR_MS = 31_556_952_000
_POWER_ITERATIONS = 2


def aspect_vectors(catalogue: Catalogue, aspects: Sequence[Aspect]) -> Tensor | None:
    """Give ``[N + 1, S]`` vectors of each aspect, one behind the other; None without any.

    Raises:
        ConfigurationError: when no item has an attribute of that name.
    """
    parts = []
    for aspect in aspects:
        said: list[list[str]] = [[] for _ in catalogue.tokens]
        for key in aspect.keys:
            of_key = list(_said_of(catalogue, key))
            if not any(of_key):
                have = sorted(
                    {t.partition("=")[0] for s in catalogue.tokens for t in s if "=" in t}
                )
                raise ConfigurationError(
                    f'aspects: wanted items with "{key}", found {", ".join(have) or "none"}; '
                    "correct the aspect's keys, or declare the attribute in the mapping"
                )
            said = [[*before, *more] for before, more in zip(said, of_key, strict=True)]
        parts.append(latent_vectors(said, aspect.size))
    return torch.cat(parts, dim=1) if parts else None


def latent_vectors(said: Sequence[Sequence[str]], size: int) -> Tensor:
    """Give ``[len(said) + 1, size]`` vectors whose products are about the tf-idf cosines.

    Row 0 is zero. With at most ``size`` distinct tokens they are the cosines; otherwise those of
    the best approximation of rank ``size``. A token of one item makes it less like others and no
    more.
    Source: Deerwester et al. 1990, "Indexing by latent semantic analysis", with the randomised
    decomposition of Halko et al. 2011, algorithm 5.1. The scale of a dimension is kept, as its
    products are wanted and not its coordinates.
    """
    counts = Counter(token for tokens in said for token in set(tokens))
    shared = sorted(token for token, count in counts.items() if count > 1)
    column = {token: place for place, token in enumerate(shared)}
    # Sorted: a set has another order in each process, and sums of floats another last bit.
    distinct = [sorted(set(tokens)) for tokens in said]
    rarity = (len(said) / torch.tensor([counts[t] for t in shared], dtype=torch.float64)).log()
    alone = torch.tensor(float(max(len(said), 1)), dtype=torch.float64).log()
    known = [(r, column[t]) for r, ts in enumerate(distinct, 1) for t in ts if t in column]
    place = torch.tensor(known, dtype=torch.int64).reshape(-1, 2).T
    value = rarity[place[1]]
    num_alone = torch.tensor([0, *(sum(counts[t] == 1 for t in ts) for ts in distinct)])
    square = (num_alone * alone**2).index_add(0, place[0], value**2)
    value = (value / square[place[0]].sqrt().clamp(min=1e-9)).float()
    table = torch.sparse_coo_tensor(
        place, value, (len(said) + 1, len(shared)), is_coalesced=True, check_invariants=False
    )
    rank = min(size, len(shared), len(said))
    if len(shared) <= size:
        found = table.to_dense()
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same vectors in each run
            left, scale, _ = torch.svd_lowrank(table, q=rank, niter=_POWER_ITERATIONS)
        found = left * scale
    found[0] = 0.0
    return F.pad(found, (0, size - found.shape[1]))


def _said_of(catalogue: Catalogue, key: str) -> Iterable[list[str]]:
    """Give each item's tokens of a key."""
    if key == "text":
        return (
            [word for word in words_of(text) if " " not in word and word not in glued]
            for text, glued in zip(catalogue.text, map(_as_words, catalogue.tokens), strict=True)
        )
    if key == "born":
        years = (catalogue.born_ms // _YEAR_MS).tolist()
        around = range(-YEARS_AROUND, YEARS_AROUND + 1)
        return ([f"born={year + n}" for n in around] for year in years)
    return ([t for t in said if t.startswith(f"{key}=")] for said in catalogue.tokens)


def _as_words(tokens: Sequence[str]) -> set[str]:
    """Give tokens as ``Catalogue.text`` holds attributes: they are not words of the text."""
    return {"".join(c for c in token if c.isalnum()).lower() for token in tokens}
