"""A whole run: log in, bundle out. Who runs ``fit`` (we or Ray's workers) is passed in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import Manifest, Objective
from recsys.bundle.store import BundleStore
from recsys.features.plan import Plan
from training.evaluate import Verdict, View, evaluate
from training.export import write_files, write_manifest
from training.fit import Fitted, fit
from training.loop import Checkpoints, World
from training.prepare import prepare
from training.prepared import Prepared
from training.progress import Progress
from training.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a run learns from, and how it is judged."""

    log: pl.DataFrame
    plan: Plan
    dataset: str
    objectives: tuple[Objective, ...]
    views: tuple[View, ...]
    """The first is the headline."""
    k: int
    relevant_type: str
    test_from_ms: int | None


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of a run."""

    folder: Path
    """``<bundle_dir>/<bundle_id>``."""
    manifest: Manifest
    verdict: Verdict
    curve: list[tuple[str, int, float]]


Fitter = Callable[[Prepared], tuple[Fitted, str]]
"""Gives the fitted parts and the device they were fitted on."""


def make_bundle(
    source: Source,
    recipe: Recipe,
    bundle_dir: Path,
    *,
    world: World,
    checkpoints: Checkpoints,
    progress: Progress,
    now_ms: int,
    fitter: Fitter | None = None,
) -> Made:
    """Prepare, fit, export, judge what was exported, and add it to the store in ``bundle_dir``.

    Without a ``fitter`` the fitting happens here, on ``world`` with ``checkpoints``.
    """

    def here(prepared: Prepared) -> tuple[Fitted, str]:
        return fit(prepared, world=world, checkpoints=checkpoints), world.device.type

    prepared, sources = prepare(
        source.log, source.plan, recipe, source.objectives,
        test_from_ms=source.test_from_ms, progress=progress,
    )  # fmt: skip
    with progress.stage("fit"):
        fitted, device = (fitter or here)(prepared)
    draft = bundle_dir / f".draft-{recipe.name}"
    shutil.rmtree(draft, ignore_errors=True)
    write_files(draft, prepared, sources, fitted, source.plan)

    def manifest(metrics: dict[str, Any]) -> Manifest:
        return write_manifest(
            draft, prepared, sources, source.plan, dataset=source.dataset, metrics=metrics,
            device=device, now_ms=now_ms,
        )  # fmt: skip

    manifest({})
    with progress.stage("evaluate"):
        verdict = evaluate(
            load_serving_model(draft), prepared, sources, k=source.k, views=source.views,
            relevant_type=source.relevant_type, progress=progress,
        )  # fmt: skip
    finished = manifest(verdict.metrics)
    store = BundleStore(bundle_dir)
    bundle_id = store.add(draft)
    shutil.rmtree(draft)
    return Made(
        folder=store.path(bundle_id), manifest=finished, verdict=verdict, curve=fitted.curve
    )
