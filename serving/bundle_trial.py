"""Tries a bundle in the model server before anybody is answered with it: warmed up, then asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.bundle.manifest import Manifest
from recsys.deadline import Deadline
from recsys.errors import BundleError
from recsys.inference.model import NUMPY_DTYPES, Array, Arrays
from recsys.inference.triton import TritonModel
from recsys.models import signature
from recsys.models.signature import CREATED_KEYS, RANKED, Dimensions

_BUDGET_MS = 60_000
"""Told to the model: enough for the first ranking of each size, which is the slowest."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """How a bundle is tried."""

    warm_up_batches: tuple[int, ...] = (1, 8, 32, 1)
    """Users in each warm-up call: the first calls of a size allocate."""
    warm_up_timeout_s: float = 60.0
    k: int = 10
    """Items the trial asks for."""
    timeout_s: float = 5.0


async def warm_up(model: TritonModel, manifest: Manifest, config: TrialConfig) -> None:
    """Ask for what nobody waits for.

    Raises:
        StageError: when the model cannot answer.
    """
    for num_users in config.warm_up_batches:
        deadline = Deadline.after_ms(config.warm_up_timeout_s * 1e3)
        await model.recommend(_request(manifest.dimensions, num_users, k=100), deadline)


async def try_out(model: TritonModel, manifest: Manifest, config: TrialConfig) -> None:
    """Ask what a request would ask, and look at the answer.

    Raises:
        BundleError: when it is nonsense.
        StageError: when there is none.
    """
    k = min(config.k, manifest.num_items)
    deadline = Deadline.after_ms(config.timeout_s * 1e3)
    _check(await model.recommend(_request(manifest.dimensions, 1, k=k), deadline), manifest, k)


def _request(dimensions: Dimensions, num_users: int, *, k: int) -> dict[str, Array]:
    """Give a request of users nobody knows: the cold start every bundle must be able to answer."""
    inputs: dict[str, Array] = {}
    for spec in signature.recommend_inputs(dimensions):
        shape = tuple(1 if size == -1 else size for size in spec.shape)
        if spec.name == CREATED_KEYS:
            continue  # the bundle's own items are looked at
        inputs[spec.name] = np.zeros((num_users, *shape), dtype=NUMPY_DTYPES[spec.dtype])
    inputs["k"][:] = k
    inputs["budget_ms"][:] = _BUDGET_MS
    return inputs


def _check(answer: Arrays, manifest: Manifest, k: int) -> None:
    index, score = answer["item_index"][0], answer["score"][0]
    index, score = index[index != 0], score[index != 0]  # fewer than k may be available
    wrong: list[str] = []
    if answer["rank_outcome"][0, 0] != RANKED:
        wrong.append("a list its ranker had no say in")
    if not (len(index) and (index > 0).all() and (index <= manifest.num_items).all()):
        wrong.append(f"item rows {index.tolist()[:k]} where 1 to {manifest.num_items} were wanted")
    if len(np.unique(index)) != len(index):
        wrong.append("an item twice")
    if not (np.isfinite(score).all() and (np.diff(score) <= 0).all()):
        wrong.append(f"scores {score.tolist()[:k]} where finite, falling ones were wanted")
    if wrong:
        raise BundleError(
            f"bundle {manifest.bundle_id} answered a request with {'; '.join(wrong)}; it does not "
            "go live, the live bundle stays"
        )
