"""``python -m training.verify_ranklens``: does the ranker beat LightGBM on RankLens' lists?

Reads RankLens through its mapping as an event log, joins the features of ``feature_repo_exposures``
point-in-time (clicks and impressions of each film, the user's clicks so far), and trains the ranker
on the lists with a click before the split, their displayed places beside them. Later lists are
judged by binary NDCG@10 *without* places, which is how they are served; the figure with places is
given beside it. Fails when a seed's figure without places is not above LightGBM's, which had them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.catalogue import build_catalogue
from recsys.data.impressions import LabelRule
from recsys.datasets.load import load_mapping
from recsys.models.config import Aspect, RankerConfig
from recsys.models.item_table import ItemTable
from recsys.models.ranker import Ranker
from recsys.models.rates import rate_columns
from recsys.settings import Settings
from training.dataset_log import log_of_dataset
from training.exposure_check import (
    Findings,
    OneSeed,
    add_seeds,
    exposure_plan,
    run_check,
    shown_often,
)
from training.exposure_steps import ExposureSteps, ExposureTraining, scores_of
from training.exposures import ExposureData, Exposures, read_exposures, with_meetings
from training.loop import NoCheckpoints, Run, World
from training.progress import Progress

DATASET = "ranklens"
BAR = 0.618
"""LightGBM's lambdarank with counted features and the displayed place; its standard error .0065."""
K = 10
MODEL = RankerConfig(
    hidden_size=64, num_factors=8, dropout=0.4, token_size=32, num_item_tokens=48,
    num_token_buckets=8192, item_identities=True, attention_heads=2, num_experts=2,
    num_positions=24, one_logit=True,
    aspects=(
        Aspect(keys=("genres",), size=32), Aspect(keys=("tags",), size=512),
        Aspect(keys=("actors",), size=256), Aspect(keys=("director", "writer"), size=256),
        Aspect(keys=("born",), size=128), Aspect(keys=("text",), size=768),
    ),
)  # fmt: skip
RATES = (("clicks_30d", "impressions_30d"),)
TRAINING = ExposureTraining(
    epochs=3, batch_groups=64, learning_rate=1e-3, listwise_share=1.0, objective_shares=(1.0,),
    zero_start=True,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when every seed passes the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_seeds(parser)
    args = parser.parse_args(argv)
    settings, progress = Settings(), Progress()

    def begin(found: Findings) -> OneSeed:
        del found  # nothing but the seeds'
        data, split, model = read(settings, progress)

        def one_seed(seed: int) -> tuple[Findings, list[str]]:
            result = judge(fit(data, split, model, seed), data, split)
            value = result["test"]["ndcg@10"]
            short = f"wanted NDCG@10 above {BAR}, found {value}"
            return result, [] if value > BAR else [short]

        return one_seed

    return run_check("verify_ranklens", args.seed, progress, begin)


def read(
    settings: Settings, progress: Progress
) -> tuple[ExposureData, dict[str, Tensor], RankerConfig]:
    """Give the lists, the rows with a click of training, validation and test, and the model."""
    with progress.stage("read the data set"):
        plan = exposure_plan(settings)
        log = with_meetings(log_of_dataset(DATASET, settings.data_dir), "watch")
        catalogue = build_catalogue(log)
    bounds = load_mapping(DATASET).split
    assert bounds is not None and bounds.validation_from_ms is not None
    learned = log.filter(
        (pl.col("kind") == "impression") & (pl.col("event_time_ms") < bounds.test_from_ms)
    )
    has_id = shown_often(learned["items"].explode(), catalogue.vocabulary)
    (taste_counts,) = item_rates = rate_columns(plan.item_activity_names, RATES)
    data = read_exposures(
        log, catalogue, plan, [LabelRule(objective="click", interaction="click")],
        attribution_ms=1, history_length=128, num_tokens=1, has_id=has_id,
        num_item_tokens=MODEL.num_item_tokens, aspects=MODEL.aspects, taste_counts=taste_counts,
        progress=progress,
    )  # fmt: skip
    has_click = data.lists.label[:, :, 0].any(axis=1)
    time_ms = data.lists.time_ms
    parts = {
        "training": time_ms < bounds.validation_from_ms,
        "validation": (time_ms >= bounds.validation_from_ms) & (time_ms < bounds.test_from_ms),
        "learned": time_ms < bounds.test_from_ms,
        "test": time_ms >= bounds.test_from_ms,
    }
    rows = {
        name: torch.from_numpy(np.flatnonzero(mask & has_click)) for name, mask in parts.items()
    }
    model = replace(
        MODEL,
        user_rates=rate_columns(plan.user_activity_names, RATES),
        item_rates=item_rates,
        taste_counts=taste_counts,
    )
    return data, rows, model


def fit(
    data: ExposureData, split: dict[str, Tensor], model: RankerConfig, seed: int,
    part: str = "learned",
) -> Ranker:  # fmt: skip
    """Train on a part of the lists, each list a group."""
    torch.manual_seed(seed)
    ranker = Ranker(model, data.dimensions, ItemTable(data.statics), embedding_size=0)
    learned = data.exposures.take(split[part])
    steps = ExposureSteps(ranker, learned, torch.arange(len(learned)), TRAINING, World())
    Run(seed=seed, world=World(), checkpoints=NoCheckpoints()).train(steps.phase("ranker"))
    return ranker


def judge(
    ranker: Ranker, data: ExposureData, split: dict[str, Tensor], parts: Sequence[str] = ("test",)
) -> dict[str, Any]:
    """Give NDCG@10 of parts of the lists as served, its standard error, and NDCG@10 with places.

    ``validation`` says something of a ranker trained on the part ``training`` alone.
    """
    out: dict[str, Any] = {}
    for part in parts:
        rows = data.exposures.take(split[part])
        served = ndcg(rows, scores_of(ranker, rows).order[:, :, 0].numpy())
        placed = ndcg(rows, scores_of(ranker, rows, with_position=True).order[:, :, 0].numpy())
        out[part] = {
            "ndcg@10": round(float(served.mean()), 4),
            "standard_error": round(float(served.std() / len(served) ** 0.5), 4),
            "ndcg@10_with_places": round(float(placed.mean()), 4),
            "num_lists": len(served),
        }
    return out


def ndcg(rows: Exposures, score: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give ``[L]`` binary NDCG@10; ties keep the display order."""
    is_item = rows.item.numpy() != 0
    label = rows.label[:, :, 0].numpy() * is_item
    order = np.argsort(np.where(is_item, -score, np.inf), axis=1, kind="stable")[:, :K]
    discount = 1.0 / np.log2(np.arange(2, K + 2))
    gain = (np.take_along_axis(label, order, axis=1) * discount).sum(axis=1)
    num_positive = label.sum(axis=1).astype(np.int64)
    best = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(num_positive, K)]
    return gain / best


if __name__ == "__main__":
    sys.exit(main())
