"""A whole run: log in, bundle out. Who runs ``fit`` (we or Ray's workers) is passed in."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.served import VOCABULARY_FILE
from recsys.bundle.store import BundleStore
from recsys.data.vocabulary_file import load_vocabulary
from recsys.errors import InputError
from recsys.retrieval.search_choice import is_approximate
from training.checks import check_vocabulary
from training.evaluate import Verdict, evaluate
from training.examples.build import Place
from training.export import METRICS_FILE, finish_manifest, write_files, write_manifest
from training.fit import Fitted, fit
from training.index_users import index_users
from training.loop import Checkpoints, World
from training.model_card import write_model_card
from training.prepare import prepare
from training.prepared import Prepared, Sources
from training.progress import Progress
from training.recipes import Recipe
from training.report.other import LIVE
from training.report.run import report_on
from training.source import Source

logger = logging.getLogger(__name__)


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
    examples: Place | None = None,
) -> Made:
    """Prepare, fit, export, judge what was exported, and add it to the store in ``bundle_dir``.

    Without a ``fitter`` the fitting happens here, on ``world`` with ``checkpoints``. Example tables
    are looked for and kept in ``examples``; None makes them for this run alone.
    """

    def here(prepared: Prepared) -> tuple[Fitted, str]:
        return fit(prepared, world=world, checkpoints=checkpoints), world.device.type

    prepared, sources = prepare(
        source.log, source.plan, recipe, source.objectives,
        test_from_ms=source.test_from_ms, progress=progress, examples=examples,
        log_identity=source.data_hash or None, exposures=source.exposures,
    )  # fmt: skip
    with progress.stage("fit"):
        fitted, device = (fitter or here)(prepared)
    draft = bundle_dir / f".draft-{recipe.name}"
    shutil.rmtree(draft, ignore_errors=True)
    write_draft(
        draft, source, prepared, sources, fitted, device=device, now_ms=now_ms, progress=progress
    )
    store = BundleStore(bundle_dir)
    with progress.stage("evaluate"):
        finished, verdict = judge_draft(
            draft, source, prepared, sources, progress=progress, store=store, curve=fitted.curve
        )
    bundle_id = store.add(draft)
    shutil.rmtree(draft)
    return Made(
        folder=store.path(bundle_id), manifest=finished, verdict=verdict, curve=fitted.curve
    )


def write_draft(
    draft: Path,
    source: Source,
    prepared: Prepared,
    sources: Sources,
    fitted: Fitted,
    *,
    device: str,
    now_ms: int,
    progress: Progress,
) -> Manifest:
    """Write a whole bundle that nobody has judged yet into the folder ``draft``.

    Where the recipe leaves open how items are searched, and no index finds enough for the run's own
    users, the bundle has none and is searched exactly.
    """
    write_files(draft, prepared, sources, fitted, source.plan)
    manifest = write_manifest(
        draft, prepared, sources, source.plan, dataset=source.dataset, metrics={},
        device=device, now_ms=now_ms, data_hash=source.data_hash,
    )  # fmt: skip
    if not is_approximate(prepared.recipe.search, manifest.num_items):
        return manifest
    from recsys.bundle.indexed import add_index  # faiss, where there is an index

    users = index_users(prepared, sources, progress)
    try:
        return add_index(draft, now_ms=now_ms, users=users)
    except InputError as error:
        if prepared.recipe.search != "auto":
            raise
        logger.warning("no index: items are searched exactly", extra={"error": str(error)})
        return manifest


def judge_draft(
    draft: Path,
    source: Source,
    prepared: Prepared,
    sources: Sources,
    *,
    progress: Progress,
    store: BundleStore | None = None,
    curve: Sequence[tuple[str, int, float]] = (),
) -> tuple[Manifest, Verdict]:
    """Judge what was exported, loaded from its files, and write the verdict into the bundle.

    The manifest keeps what the draft's says of its making; metrics and model card are new. With a
    ``store`` the report is written beside its bundles, compared with the live one; ``curve`` is
    the training loss it shows.

    Raises:
        BundleError: when the draft's items are not those of ``sources``: rows would mean others.
    """
    check_vocabulary(
        sources.catalogue.vocabulary, load_vocabulary(draft / VOCABULARY_FILE), str(draft)
    )
    verdict = evaluate(
        load_serving_model(draft), prepared, sources, k=source.k, views=source.views,
        relevant_type=source.relevant_type, progress=progress, log=source.log,
    )  # fmt: skip
    before = read_manifest(draft)
    (draft / METRICS_FILE).write_text(json.dumps(verdict.metrics, indent=1, sort_keys=True))
    write_model_card(draft, before.model_copy(update={"metrics": verdict.metrics}))
    finished = finish_manifest(draft, before.model_copy(update={"metrics": verdict.metrics}))
    if store is not None:
        report_on(
            finished, verdict, source.log, source.plan, store, against=LIVE, curve=curve,
            progress=progress,
        )  # fmt: skip
    return finished, verdict
