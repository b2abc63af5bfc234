"""The model's part of an answer again: sources, objectives and scores of the shown items.

The bundle's own serving model runs the same two stages with the user's tensors of the exposure.
Only the shown items are available to it, with the moving features they had, so it finds just these;
the shapes are those of the answer, which is what equal bits ask for. Which other items were
candidates is not computed again: that takes the moving features of all items, which no exposure
keeps.

Axes: ``K`` shown items, ``O`` objectives, ``S`` sources, ``Fi`` item features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recsys.bundle.item_describer import ItemDescriber
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.model_items import ModelItems
from recsys.bundle.served import VOCABULARY_FILE
from recsys.data.vocabulary import GrowingVocabulary
from recsys.data.vocabulary_file import load_vocabulary
from recsys.errors import BundleError
from recsys.events.item_follower import ItemChange
from recsys.feedback.exposure import Exposure
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import Candidates
from recsys.models.signature import CREATED_KEYS
from recsys.replay.kept import ITEM_ACTIVITY


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the model says of the shown items now; rows as in the exposure."""

    score: Tensor
    """``[K]``."""
    objective_score: Tensor
    """``[K, O]``."""
    source_score: Tensor
    """``[K, S]``."""


@dataclass(frozen=True, kw_only=True)
class PastInputs:
    """What the model was given, as tensors."""

    model: TorchServingModel
    manifest: Manifest
    user: dict[str, Tensor]
    """``signature.user_context``, batch axis 1."""
    index: Tensor
    """``[K]`` rows of the shown items."""
    activity: Tensor
    """``[N + 1, Fi]`` moving features of the shown items, zeros of all others."""


def missing(exposure: Exposure, manifest: Manifest) -> str:
    """Say why the scores of an answer cannot be computed again; ``""`` when they can."""
    if exposure.rung != "full":
        return f"the answer is of the rung {exposure.rung}: no ranker had a say"
    if CREATED_KEYS in exposure.replay:
        count = exposure.replay[CREATED_KEYS].shape[0]
        return (
            f"{count} items of the answer or of the user's history came after the bundle was made: "
            "what they were is in the event log and not in the bundle"
        )
    if not exposure.features:
        return "the exposure has no tensors of the user"
    if ITEM_ACTIVITY not in exposure.replay:
        return "the exposure has no moving features of the items: it is from before they were kept"
    if manifest.ranker.aspects:
        return (
            "the ranker's tastes look at the moving features of the user's history, which are not "
            "kept"
        )
    return ""


def past_inputs(
    exposure: Exposure, folder: Path, index: Tensor, changes: Sequence[ItemChange] = ()
) -> PastInputs:
    """Load the bundle in ``folder`` with what the exposure says it was given.

    ``changes`` are what the log had said of the bundle's items since it was made.

    Raises:
        BundleError: when the bundle is missing, damaged, or not the exposure's.
    """
    manifest = read_manifest(folder)
    model = load_serving_model(folder)
    assert isinstance(model, TorchServingModel)
    if changes:
        vocabulary = GrowingVocabulary(load_vocabulary(folder / VOCABULARY_FILE))
        ModelItems(model, vocabulary, ItemDescriber(folder, manifest, vocabulary)).apply(changes)
    activity = exposure.replay[ITEM_ACTIVITY].array()
    if activity.shape != (len(index), manifest.dimensions.num_item_features):
        raise BundleError(
            f"the exposure has item features of shape {activity.shape}, bundle "
            f"{manifest.bundle_id} wants {(len(index), manifest.dimensions.num_item_features)}"
        )
    table = torch.zeros(model.num_items + 1, activity.shape[1])
    table[index] = torch.from_numpy(activity.copy())
    model.items.set_activity(table, exposure.now_ms - (exposure.item_features_age_ms or 0))
    available = torch.zeros(model.num_items + 1, dtype=torch.bool)
    available[index] = True
    model.items.set_available(available)
    user = {
        name: torch.from_numpy(record.array().copy()) for name, record in exposure.features.items()
    }
    return PastInputs(model=model, manifest=manifest, user=user, index=index, activity=table)


@torch.inference_mode()
def score_again(past: PastInputs, asked: Tensor | None) -> Scored:
    """Compute the scores of the shown items as they were computed.

    ``asked`` ``[C]``: rows of the items that were to be put in order, in the order they were given,
    on which the last bit may depend; ``None``: they were searched for.
    """
    model, index = past.model, past.index
    user = model.prepare(past.user)
    if asked is not None:
        candidates = model.score_sources(user, asked.unsqueeze(0))
    else:
        candidates = model.retrieve(
            user,
            num_candidates=min(max(past.manifest.num_candidates, len(index)), model.num_items),
            exclude_index=torch.zeros(1, 1, dtype=torch.int32),
            exclude_history=torch.zeros(1, 1, dtype=torch.bool),
        )
    ranked = model.rank(user, candidates)
    place = _places(candidates, index)
    return Scored(
        score=ranked.score[0, place],
        objective_score=ranked.objective_score[0, place],
        source_score=candidates.source_score[0, place],
    )


def _places(candidates: Candidates, index: Tensor) -> Tensor:
    """Give where each of ``index`` stands among the candidates."""
    found = candidates.item_index[0].long()
    place = torch.full((int(max(index.max(), found.max())) + 1,), -1, dtype=torch.int64)
    real = found > 0
    place[found[real]] = real.nonzero().flatten()
    places = place[index]
    assert bool((places >= 0).all()), "every available item is found when as many are asked for"
    return places
