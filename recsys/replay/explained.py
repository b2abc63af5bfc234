"""Which features made the scores of a past answer, item by item."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch

from recsys.bundle.served import ServedBundle
from recsys.compression.int8_linear import Int8Linear
from recsys.errors import BundleError
from recsys.replay.contributions import Attributed, RankerInputs, attribute, names_of_crosses
from recsys.replay.scores import PastInputs
from recsys.wire import Contribution, ReplayedItem

_STRONGEST = 10
"""Features named of each item."""


def add_contributions(
    items: list[ReplayedItem], bundle: ServedBundle, past: PastInputs, plan: Any
) -> list[ReplayedItem]:
    """Add the strongest contributions to the items they were computed of; see ``explain``."""
    found = explain(past, bundle, plan)
    done = []
    for place, item in enumerate(items[: len(found.score)]):
        order = found.contribution[place].abs().argsort(descending=True)[:_STRONGEST].tolist()
        strongest = [
            Contribution(
                feature=found.names[column],
                contribution=float(found.contribution[place, column]),
                value=None if math.isnan(value) else value,
            )
            for column in order
            if found.contribution[place, column] != 0.0
            for value in [float(found.value[place, column])]
        ]
        total = float(found.contribution[place].sum())
        done.append(
            msgspec.structs.replace(
                item,
                base=float(found.base[place]),
                contributions=strongest,
                other_contributions=total - sum(one.contribution for one in strongest),
                unexplained=float(found.unexplained[place]),
            )
        )
    return done + items[len(done) :]


def explain(past: PastInputs, bundle: ServedBundle, plan: Any) -> Attributed:
    """Attribute the scores of the shown items to features.

    Raises:
        BundleError: when the ranker's weights are whole numbers, which have no gradient.
    """
    model = past.model
    if any(isinstance(module, Int8Linear) for module in model.ranker.modules()):
        raise BundleError(
            f"bundle {bundle.bundle_id}: wanted a ranker in floating point, found int8, through "
            "which no gradient goes; ask for an answer of the bundle it was made from"
        )
    with torch.inference_mode():
        candidates = model.score_sources(past.user, past.index.unsqueeze(0))
        user_vectors = model.user_vectors(past.user)
        vectors = model.item_vectors()
    names = names_of_crosses(
        model.ranker, bundle.dimensions.sources, bundle.encoding.user_category_activity
    )
    return attribute(
        model.ranker,
        model.objective_weights,
        RankerInputs(
            user=past.user, user_vectors=user_vectors, item_vectors=vectors,
            item_activity=past.activity, candidates=candidates,
        ),
        user_names=bundle.encoding.dense_names,
        item_names=plan.item_activity_names,
        cross_names=names,
    )  # fmt: skip
