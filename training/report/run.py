"""Ask the other bundle, build the report, write it: the last thing a run does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recsys.bundle.manifest import Manifest
from recsys.bundle.store import BundleStore
from recsys.features.plan import Plan
from training.evaluate import Verdict
from training.export import CURVE_FILE
from training.progress import Progress
from training.report.build import build_report
from training.report.other import ask_other
from training.report.write import report_folder, write_report


def report_on(
    manifest: Manifest,
    verdict: Verdict,
    log: pl.DataFrame,
    plan: Plan,
    store: BundleStore,
    *,
    against: str,
    progress: Progress,
    curve: Sequence[tuple[str, int, float]] = (),
    output: Path | None = None,
) -> Path:
    """Write the report of a judged bundle, compared with ``against``, and give its folder.

    That is ``output``, or beside the bundles.
    """
    other = ask_other(
        store, against, ours=manifest, judged=verdict.judged, log=log, plan=plan, progress=progress
    )
    report = build_report(manifest, verdict, log, other=other, curve=curve)
    folder = output or report_folder(store.bundle_dir, manifest.bundle_id)
    write_report(report, folder)
    progress.console.print(f"report: {folder / 'report.html'}")
    return folder


def curve_of(folder: Path) -> list[tuple[str, int, float]]:
    """Give phase, epoch and loss as the bundle in ``folder`` keeps them."""
    rows = json.loads((folder / CURVE_FILE).read_text())
    return [(row["phase"], row["epoch"], row["loss"]) for row in rows]
