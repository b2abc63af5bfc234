"""Judge a bundle that is there, on a log: for ``recsys evaluate`` and ``recsys compress``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from recsys.bundle.manifest import read_manifest
from recsys.data.catalogue import build_catalogue
from recsys.data.interactions import read_interactions
from recsys.errors import InputError
from recsys.features.history import open_rows
from training.evaluate import Verdict, judge
from training.progress import Progress
from training.report.other import open_contender
from training.report.protocol import Terms, hold_out
from training.source import Source


def judge_bundle(folder: Path, source: Source, *, progress: Progress) -> Verdict:
    """Judge the bundle in ``folder`` on the part of the log from ``source.test_from_ms`` on.

    Raises:
        InputError: when the bundle learned from what comes after that, or nothing does.
        RecsysError: when the bundle cannot be loaded.
    """
    manifest = read_manifest(folder)
    test_from_ms, until_ms = source.test_from_ms, manifest.lineage.data_until_ms
    assert test_from_ms is not None
    if test_from_ms < until_ms:
        raise InputError(
            f"--test-from: wanted {_moment(until_ms)} or later, until when bundle "
            f"{manifest.bundle_id} learned from the data; found {_moment(test_from_ms)}"
        )
    log = source.log
    end_ms = int(log.filter(pl.col("kind") != "item")["event_time_ms"].max() or 0)  # type: ignore[arg-type]
    if end_ms < test_from_ms:
        raise InputError(
            f"wanted events from {_moment(test_from_ms)} on to judge by, found none (the log ends "
            f"{_moment(end_ms)}); replay more, or give an earlier bundle"
        )
    with progress.stage("features"):
        catalogue = build_catalogue(log, described_until_ms=test_from_ms)
        rows = open_rows(log, source.plan)
        contender, _ = open_contender(folder, rows, source.plan)
    config = manifest.recipe_config
    terms = Terms(
        views=source.views, k=source.k, seed=config["seed"],
        window_ms=config["ranker"]["window_ms"],
        attribution_ms=config["ranker"]["attribution_ms"],
    )  # fmt: skip
    held_out = hold_out(
        read_interactions(log, catalogue.vocabulary), catalogue.vocabulary,
        np.concatenate([[0], catalogue.first_seen_ms]), test_from_ms=test_from_ms, end_ms=end_ms,
        relevant_type=source.relevant_type, seed=terms.seed,
    )  # fmt: skip
    return judge(
        contender, held_out, catalogue, terms, log=log,
        has_lists=bool((log["kind"] == "impression").any()), progress=progress,
    )  # fmt: skip


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
