"""``python -m training.verify_kuairand``: does the ranker beat LightGBM on KuaiRand's exposures?

Reads KuaiRand-Pure through its mapping as an event log, with the users' exposures before the window
as earlier events, joins the features of ``feature_repo_exposures`` point-in-time, and trains the
ranker on the exposures until 3 May. The calibration is fitted on 4 May, and 5 to 8 May are judged:
AUC and gAUC of click and long view with intervals over users, and the expected calibration error.
Fails when a figure is not above LightGBM's or the calibration error above its bound.

``--lightgbm`` also fits LightGBM (which must be installed: ``pip install lightgbm``) to the same
columns of the same rows.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from recsys.data.catalogue import build_catalogue
from recsys.data.impressions import LabelRule
from recsys.datasets.load import load_mapping
from recsys.errors import InputError
from recsys.evaluation.auc import auc
from recsys.evaluation.calibration import expected_calibration_error
from recsys.evaluation.grouped_auc import grouped_auc
from recsys.models.config import RankerConfig
from recsys.models.item_table import ItemTable
from recsys.models.ranker import Ranker
from recsys.models.rates import rate_columns
from recsys.models.request_tokens import REQUEST_TOKENS
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
from training.exposure_intervals import auc_interval, grouped_auc_interval
from training.exposure_steps import ExposureSteps, ExposureTraining, calibrate, scores_of
from training.exposures import ExposureData, Exposures, read_exposures, with_meetings
from training.loop import NoCheckpoints, Run, World
from training.progress import Progress

DATASET = "kuairand_pure"
HISTORY_FILE = "history_before_0425.parquet"
OBJECTIVES = ("click", "long_view", "like")
LAST_TRAINING_DAY, VALIDATION_DAY = 20220503, 20220504
"""The publisher's days, which the impressions carry as context."""
BARS = {"click": (0.7387, 0.5988), "long_view": (0.7369, 0.6082)}
"""AUC and gAUC of LightGBM with counting features."""
MAX_CALIBRATION_ERROR = 0.02
HOUR_MS = 3_600_000
MODEL = RankerConfig(
    hidden_size=64, num_factors=8, dropout=0.1, token_size=16, num_item_tokens=14,
    item_identities=True, attention_heads=1, num_experts=3, one_logit=True, is_calibrated=True,
)  # fmt: skip
RATES = (
    *((f"{act}_{window}", f"impressions_{window}")
      for act in ("clicks", "long_views") for window in ("1h", "1d", "30d")),
    ("long_views_30d", "watches_30d"),
)  # fmt: skip
"""Of users and of videos. The earlier exposures are watches without impressions."""
TRAINING = ExposureTraining(listwise_share=0.4)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when every seed passes every bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_seeds(parser)
    parser.add_argument("--lightgbm", action="store_true", help="fit LightGBM to the same rows")
    args = parser.parse_args(argv)
    settings, progress = Settings(), Progress()

    def begin(found: Findings) -> OneSeed:
        data, day, model = read(settings, progress)
        if args.lightgbm:
            found["lightgbm"] = judged_parts(lightgbm_scores(data, day), data, day)
            progress.console.print_json(data=found["lightgbm"])

        def one_seed(seed: int) -> tuple[Findings, list[str]]:
            result = judge(fit(data, day, model, seed), data, day)
            return result, shortfalls(result["test"])

        return one_seed

    return run_check("verify_kuairand", args.seed, progress, begin)


def read(
    settings: Settings, progress: Progress
) -> tuple[ExposureData, NDArray[np.int64], RankerConfig]:
    """Give the exposures with their features, the publisher's day of each, and the model."""
    with progress.stage("read the data set"):
        plan = exposure_plan(settings)
        log = log_of_dataset(DATASET, settings.data_dir)
        folder = load_mapping(DATASET).data_folder(settings.data_dir)
        log = with_earlier_events(with_meetings(log, "watch"), folder / HISTORY_FILE)
        catalogue = build_catalogue(log)
    days = log.filter(pl.col("kind") == "impression").select(
        day=pl.col("context").str.json_path_match("$.date").cast(pl.Int64),
        item_id=pl.col("items").list.first(),
    )  # fmt: skip
    learned = days.filter(pl.col("day") <= LAST_TRAINING_DAY)["item_id"]
    has_id = shown_often(learned, catalogue.vocabulary)
    data = read_exposures(
        log, catalogue, plan, [LabelRule(objective=o, interaction=o) for o in OBJECTIVES],
        attribution_ms=1, history_length=50, num_tokens=0, request_keys=("tab",),
        num_item_tokens=MODEL.num_item_tokens, has_id=has_id, progress=progress,
    )  # fmt: skip
    day = [int(msgspec.json.decode(text or "{}")["date"]) for text in data.lists.context]
    model = replace(
        MODEL,
        user_rates=rate_columns(plan.user_activity_names, RATES),
        item_rates=rate_columns(plan.item_activity_names, RATES),
    )
    return data, np.array(day, dtype=np.int64), model


def with_earlier_events(log: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Put the users' exposures before the window in front of the log.

    The file says in which order a user's last 50 videos were watched, which of them long, and when
    the last one was, but not when the others were: they are taken as an hour apart.

    Raises:
        InputError: when the file is missing.
    """
    if not path.is_file():
        raise InputError(f"wanted the users' earlier exposures at {path}, found no such file")
    table = pl.read_parquet(path)
    begin_ms = log.filter(pl.col("kind") == "impression")["event_time_ms"].min()
    parts = [
        _earlier(table, column, kind, int(begin_ms) - 1)  # type: ignore[arg-type]
        for column, kind in (
            ("watch_seq", "watch"), ("long_watch_seq", "long_view"), ("like_seq", "like"),
        )
    ]  # fmt: skip
    earlier = pl.concat(parts).sort("event_time_ms", "event_id")
    earlier = earlier.with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("offset"),
        ingest_time_ms=pl.col("event_time_ms"),
    )
    later = log.with_columns(pl.col("offset") + len(earlier))
    return pl.concat([earlier, later], how="diagonal").select(log.columns)


def _earlier(table: pl.DataFrame, column: str, kind: str, latest_ms: int) -> pl.DataFrame:
    length = pl.col(column).list.len()
    rows = table.select(
        pl.col("user_id").cast(pl.String),
        pl.min_horizontal("last_time_ms", pl.lit(latest_ms)).alias("last_ms"),
        pl.col(column).alias("item_id"),
        pl.int_ranges(length).alias("place"),
        length.alias("length"),
    ).filter(pl.col("length") > 0).explode("item_id", "place")  # fmt: skip
    age = pl.col("length").cast(pl.Int64) - 1 - pl.col("place")
    return rows.select(
        topic=pl.lit("files"),
        partition=pl.lit(0, dtype=pl.Int32),
        kind=pl.lit("interaction"),
        event_id=pl.format("{}-{}-{}", pl.lit(kind), "user_id", "place"),
        event_time_ms=pl.col("last_ms") - age * HOUR_MS,
        user_id=pl.col("user_id"),
        item_id=pl.col("item_id").cast(pl.String),
        type=pl.lit(kind),
        value=pl.lit(1.0),
    )


def fit(data: ExposureData, day: NDArray[np.int64], model: RankerConfig, seed: int) -> Ranker:
    """Train on the days until 3 May and calibrate on 4 May."""
    torch.manual_seed(seed)
    ranker = Ranker(model, data.dimensions, ItemTable(data.statics), embedding_size=0)
    learned = rows_of(data, day <= LAST_TRAINING_DAY)
    steps = ExposureSteps(ranker, learned, learned.user, TRAINING, World())
    Run(seed=seed, world=World(), checkpoints=NoCheckpoints()).train(steps.phase("ranker"))
    calibrate(ranker, rows_of(data, day == VALIDATION_DAY))
    return ranker


def rows_of(data: ExposureData, mask: NDArray[np.bool_]) -> Exposures:
    """Give some of the exposures."""
    return data.exposures.take(torch.from_numpy(np.flatnonzero(mask)))


def judge(ranker: Ranker, data: ExposureData, day: NDArray[np.int64]) -> dict[str, Any]:
    """Give the measures of the validation day and of the test."""
    output = scores_of(ranker, data.exposures)
    probability = output.probability.sigmoid()[:, 0].double().numpy()
    return judged_parts(probability, data, day)


def judged_parts(
    probability: NDArray[np.float64], data: ExposureData, day: NDArray[np.int64]
) -> dict[str, Any]:
    """Give the measures of ``[L, O]`` probabilities by part and objective."""
    user = data.exposures.user.numpy()
    label = data.exposures.label[:, 0].numpy() > 0
    out: dict[str, Any] = {}
    for part, mask in (("validation", day == VALIDATION_DAY), ("test", day > VALIDATION_DAY)):
        out[part] = {
            name: _measures(probability[mask, o], label[mask, o], user[mask], part == "test")
            for o, name in enumerate(OBJECTIVES[: probability.shape[1]])
        }
    return out


def _measures(
    probability: NDArray[np.float64],
    label: NDArray[np.bool_],
    user: NDArray[np.int64],
    with_intervals: bool,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "auc": round(auc(probability, label), 4),
        "gauc": round(grouped_auc(probability, label, user), 4),
        "calibration_error": round(expected_calibration_error(probability, label), 4),
    }
    if with_intervals:
        rng = np.random.default_rng(0)
        found["auc_95"] = auc_interval(probability, label, user, rng=rng)
        found["gauc_95"] = grouped_auc_interval(probability, label, user, rng=rng)
    return found


def shortfalls(test: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what misses its bar: the lower end of each interval must lie above LightGBM's figure."""
    missed = []
    for name, bars in BARS.items():
        for measure, bar in zip(("auc", "gauc"), bars, strict=True):
            low = test[name][f"{measure}_95"][0]
            if not low > bar:
                missed.append(
                    f"{name} {measure}: wanted an interval above {bar}, found "
                    f"{test[name][measure]} from {low}"
                )
        error = test[name]["calibration_error"]
        if not error <= MAX_CALIBRATION_ERROR:
            missed.append(f"{name} calibration error: at most {MAX_CALIBRATION_ERROR}, not {error}")
    return missed


def lightgbm_scores(data: ExposureData, day: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give ``[L, 2]`` probabilities of LightGBM on the dense columns of the same rows.

    Trees stop by the validation day. The tab is a column; profile and item tokens are not.

    Raises:
        InputError: when LightGBM is not installed.
    """
    try:
        lgb = importlib.import_module("lightgbm")
    except ImportError:
        raise InputError("--lightgbm: it is not installed; run `pip install lightgbm`") from None
    rows = data.exposures
    tab = np.unique(rows.context[REQUEST_TOKENS][:, 0].numpy(), return_inverse=True)[1]
    columns = np.concatenate(
        [rows.context["user_dense"].numpy(), rows.activity[:, 0].numpy(), rows.cross[:, 0].numpy(),
         tab[:, None].astype(np.float32)], axis=1,
    )  # fmt: skip
    learned, held_out = day <= LAST_TRAINING_DAY, day == VALIDATION_DAY
    out = np.zeros((len(day), len(BARS)))
    for o in range(len(BARS)):
        label = rows.label[:, 0, o].numpy()
        booster = lgb.train(
            {"objective": "binary", "learning_rate": 0.05, "num_leaves": 31,
             "min_data_in_leaf": 100, "feature_fraction": 0.6, "verbose": -1, "num_threads": 1},
            lgb.Dataset(columns[learned], label[learned]),
            600,
            valid_sets=[lgb.Dataset(columns[held_out], label[held_out])],
            callbacks=[lgb.early_stopping(50, verbose=False)],
        )  # fmt: skip
        out[:, o] = booster.predict(columns)
    return out


if __name__ == "__main__":
    sys.exit(main())
