"""``python -m benchmarks.reranking``: MMR, DPP and Plackett-Luce lists beside plain ways of each.

500 candidates, embeddings of 64, lists of 20 and 100. The ways take turns in one process on one
thread; the ratio of their median CPU times is the result. MMR is compared with the textbook loop
over a full similarity matrix in NumPy and in torch, the DPP with greedy steps that compute every
determinant anew, Plackett-Luce with one ``choice`` a place. Apart from draws, all ways of one list
give the same list, which is checked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.features.interleaved import ratio, summary, surroundings, time_in_turn
from recsys.ranking.dpp import determinantal_greedy, kernel_row
from recsys.ranking.exploration import Softmax
from recsys.ranking.mmr import maximal_marginal_relevance
from recsys.ranking.plackett_luce import gumbel_top_k
from recsys.ranking.similarity import VectorSimilarity
from recsys.ranking.thompson import chance_of_best
from recsys.ranking.worth import spread_of

_C, _D, _SEED = 500, 64, 7
_LENGTHS = (20, 100)
_DIVERSITY = 0.5
_ROUNDS, _SLOW_ROUNDS = 10, 3
_SLOW = "dpp_determinants"


def _mmr_numpy(score: np.ndarray, vector: np.ndarray, k: int) -> list[int]:
    alike = vector @ vector.T
    price, chosen, left = _DIVERSITY * spread_of(score), [], set(range(len(score)))
    for _ in range(k):
        best = max(
            sorted(left),
            key=lambda i: (
                (1 - _DIVERSITY) * score[i] - price * max([0.0, *(alike[i, j] for j in chosen)])
            ),
        )
        chosen.append(best)
        left.remove(best)
    return chosen


def _mmr_torch(score: torch.Tensor, vector: torch.Tensor, k: int) -> list[int]:
    alike = vector @ vector.T
    price = _DIVERSITY * float(score.max() - score.min())
    closest, taken, chosen = torch.zeros(len(score)), torch.zeros(len(score)), []
    for _ in range(k):
        worth = (1 - _DIVERSITY) * score - price * closest + taken
        best = int(worth.argmax())
        chosen.append(best)
        taken[best] = -torch.inf
        closest = torch.maximum(closest, alike[best])
    return chosen


def _dpp_determinants(score: np.ndarray, kernel: np.ndarray, k: int) -> list[int]:
    price, chosen = _DIVERSITY * spread_of(score), list[int]()
    for _ in range(k):
        left = [i for i in range(len(score)) if i not in chosen]
        lists = np.array([[*chosen, i] for i in left])
        volume = np.linalg.slogdet(kernel[lists[:, :, None], lists[:, None, :]])[1]
        worth = (1 - _DIVERSITY) * score[left] + price * volume
        chosen.append(left[int(np.argmax(worth))])
    return chosen


def _choice_a_place(log_weight: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    left, chosen = np.arange(len(log_weight)), list[int]()
    for _ in range(k):
        weight = np.exp(log_weight[left] - log_weight[left].max())
        place = int(rng.choice(len(left), p=weight / weight.sum()))
        chosen.append(int(left[place]))
        left = np.delete(left, place)
    return chosen


def _softmax_a_place(log_weight: np.ndarray, k: int, rng: np.random.Generator) -> None:
    open_, policy = np.ones(len(log_weight), dtype=bool), Softmax(temperature=1.0)
    for _ in range(k):
        place, _chance = policy.draw(log_weight, open_, log_weight, rng)
        open_[place] = False


def main() -> int:
    """Measure; print one JSON result. Fails when two ways of one list differ."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(_SEED)
    vector = rng.normal(size=(_C, _D)).astype(np.float32)
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    score = np.sort(rng.normal(size=_C).astype(np.float32))[::-1].copy()
    alike, wide = VectorSimilarity(vector), score.astype(np.float64)
    kernel = np.stack([kernel_row(alike, place) for place in range(_C)])
    tensors = torch.from_numpy(score), torch.from_numpy(vector)
    deviation = rng.uniform(0.1, 0.5, _C)
    results = {}
    for k in _LENGTHS:
        ways: dict[str, Callable[[], object]] = {
            "mmr": lambda k=k: maximal_marginal_relevance(  # type: ignore[misc]
                score, VectorSimilarity(vector), diversity=_DIVERSITY, k=k
            ).tolist(),
            "mmr_loop": lambda k=k: _mmr_numpy(wide, vector, k),  # type: ignore[misc]
            "mmr_torch": lambda k=k: _mmr_torch(*tensors, k),  # type: ignore[misc]
            "dpp": lambda k=k: determinantal_greedy(  # type: ignore[misc]
                score, VectorSimilarity(vector), diversity=_DIVERSITY, k=k
            ).tolist(),
            "plackett_luce": lambda k=k: gumbel_top_k(wide, k, rng),  # type: ignore[misc]
            "plackett_luce_choice": lambda k=k: _choice_a_place(wide, k, rng),  # type: ignore[misc]
            "softmax_by_place": lambda k=k: _softmax_a_place(wide, k, rng),  # type: ignore[misc]
            "thompson_chances": lambda k=k: [  # type: ignore[misc]
                chance_of_best(wide, deviation, place) for place in range(k)
            ],
        }
        if ways["mmr"]() != ways["mmr_loop"]() or ways["mmr"]() != ways["mmr_torch"]():
            sys.stderr.write("the ways of MMR give different lists\n")
            return 1
        taken = time_in_turn(ways, rounds=_ROUNDS, seed=_SEED)
        own = taken["dpp"]
        slow: dict[str, Callable[[], object]] = {
            "dpp": ways["dpp"], _SLOW: lambda: _dpp_determinants(wide, kernel, _LENGTHS[0])
        }  # fmt: skip
        compared = {
            f"mmr/{other}": ratio(taken[other]["cpu"], taken["mmr"]["cpu"], seed=_SEED)
            for other in ("mmr_loop", "mmr_torch")
        }
        compared["plackett_luce/choice"] = ratio(
            taken["plackett_luce_choice"]["cpu"], taken["plackett_luce"]["cpu"], seed=_SEED
        )
        if k == _LENGTHS[0]:  # the plain way is cubic in the places
            if ways["dpp"]() != slow[_SLOW]():
                sys.stderr.write("the ways of the DPP give different lists\n")
                return 1
            again = time_in_turn(slow, rounds=_SLOW_ROUNDS, seed=_SEED)
            compared["dpp/determinants"] = ratio(again[_SLOW]["cpu"], again["dpp"]["cpu"], seed=1)
        compared["dpp/mmr"] = ratio(own["cpu"], taken["mmr"]["cpu"], seed=_SEED)
        results[f"k={k}"] = {"times": summary(taken), "times_as_fast": compared}
    document = {
        "benchmark": "reranking", "candidates": _C, "size": _D, "seed": _SEED, **results,
        **surroundings(), "torch": torch.__version__,
    }  # fmt: skip
    sys.stdout.write(json.dumps(document) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
