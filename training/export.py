"""A finished run as a bundle's folder."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file

from recsys.bundle.load import ITEMS_FILE, RANKER_FILE, TOWERS_FILE
from recsys.bundle.manifest import MANIFEST_FILE, Lineage, Manifest, file_entry
from recsys.bundle.segments import SEGMENTS_FILE
from recsys.data.vocabulary_file import save_vocabulary
from recsys.features.plan import Plan
from training.fit import Fitted
from training.popular_segments import popular_segments
from training.prepared import Prepared, Sources

_LIBRARIES = ("torch", "numpy", "polars", "ray")
METRICS_FILE, CURVE_FILE = "metrics.json", "training_curve.json"
FEATURE_SERVICES = ("retrieval_v1", "ranking_v1")


def write_files(
    folder: Path, prepared: Prepared, sources: Sources, fitted: Fitted, plan: Plan
) -> None:
    """Write all files but the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    catalogue = sources.catalogue
    save_vocabulary(catalogue.vocabulary, folder / "vocabulary.json")
    plan.dump(folder / "plan.json")
    catalogue.to_frame().write_parquet(folder / "catalogue.parquet")
    save_file(fitted.towers, folder / TOWERS_FILE)
    ranker = {k: v for k, v in fitted.ranker.items() if not k.startswith("table.")}
    save_file(ranker, folder / RANKER_FILE)
    save_file(
        {
            "vectors": fitted.item_vectors.contiguous(),
            "available": prepared.available,
            "activity": prepared.activity.contiguous(),
            "activity_as_of_ms": torch.tensor(prepared.split.test_from_ms - 1),
            "neighbour_index": fitted.neighbour_index.to(torch.int32).contiguous(),
            "neighbour_weight": fitted.neighbour_weight.contiguous(),
            "popular_weights": prepared.popular_weights,
        },
        folder / ITEMS_FILE,
    )
    _write_popular(folder / "popular.json", prepared, sources)
    if segments := popular_segments(prepared, sources):
        (folder / SEGMENTS_FILE).write_bytes(msgspec.json.encode(segments))
    (folder / CURVE_FILE).write_text(
        json.dumps(
            [{"phase": p, "epoch": e, "loss": round(loss, 6)} for p, e, loss in fitted.curve]
        )
    )


def _write_popular(path: Path, prepared: Prepared, sources: Sources) -> None:
    """Write the fallback list: every available item, best first.

    ``[{"item_id": ..., "score": ...}, ...]``; the score is the ``popular`` source's at the end of
    training, with all-time counts as its fraction, so that no two reasons are needed for the tail.
    """
    counts = prepared.all_edges.counts.numpy().astype(np.float64)
    recent = (prepared.activity.clamp(min=0).log1p() @ prepared.popular_weights).numpy()
    score = recent.astype(np.float64) + 1e-3 * np.log1p(counts)
    rows = np.flatnonzero(prepared.available.numpy())
    order = rows[np.lexsort((rows, -score[rows]))]
    ids = sources.catalogue.vocabulary.item_ids
    path.write_text(
        json.dumps([{"item_id": ids[i - 1], "score": round(float(score[i]), 6)} for i in order])
    )


def write_manifest(
    folder: Path,
    prepared: Prepared,
    sources: Sources,
    plan: Plan,
    *,
    dataset: str,
    metrics: Mapping[str, Any],
    device: str,
    now_ms: int,
    data_hash: str = "",
) -> Manifest:
    """Write the manifest over the files in ``folder``, and give it."""
    recipe, split = prepared.recipe, prepared.split
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=1, sort_keys=True))
    manifest = Manifest(
        bundle_id="0" * 16,
        created_ms=now_ms,
        recipe=recipe.name,
        recipe_config=asdict(recipe),
        feature_services=tuple(s for s in FEATURE_SERVICES if s in plan.services),
        plan_schema_hash=plan.schema_hash,
        views={view.name: view.state_name for view in plan.views if view.is_streamed},
        dimensions=prepared.dimensions,
        encoding=prepared.encoding,
        towers=recipe.model,
        ranker=recipe.ranker_model,
        sources=recipe.sources,
        objectives=prepared.objectives,
        num_items=sources.catalogue.vocabulary.num_items,
        num_candidates=recipe.num_candidates,
        metrics=dict(metrics),
        lineage=Lineage(
            dataset=dataset,
            num_events=sources.num_events,
            log_positions=sources.log_positions,
            data_hash=data_hash,
            logged_features=sources.logged_features,
            data_from_ms=split.begin_ms,
            data_until_ms=split.test_from_ms,
            seed=recipe.seed,
            code_version=code_version(),
            libraries={name: metadata.version(name) for name in _LIBRARIES},
            device=device,
        ),
        files={},
    )
    return finish_manifest(folder, manifest)


def finish_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write ``manifest`` with the checksums of the files in ``folder`` and its id, and give it."""
    files = {
        str(path.relative_to(folder)): file_entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    manifest = manifest.model_copy(update={"files": files}).with_id()
    # What was validated is what is written: a value that JSON changes would change the id.
    manifest = Manifest.model_validate_json(manifest.model_dump_json()).with_id()
    manifest.write(folder)
    return manifest


def code_version() -> str:
    """Give the checkout's commit (``+`` when it has changes), else the package version."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return metadata.version("recsys")
    return commit + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
