"""A bundle again, with smaller numbers: another bundle, with an id of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from recsys.bundle.load import ITEMS_FILE, RANKER_FILE, TOWERS_FILE
from recsys.bundle.manifest import (
    MANIFEST_FILE,
    Manifest,
    file_entry,
    read_manifest,
    verify_files,
)
from recsys.compression.item_vectors import in_precision
from recsys.compression.weights import pack
from recsys.errors import InputError
from recsys.models.config import Precision

METRICS_FILE = "metrics.json"


def write_compressed(source: Path, precision: Precision, folder: Path, *, now_ms: int) -> Manifest:
    """Write the bundle in ``source`` to ``folder`` in ``precision``, without metrics.

    They are those of other numbers; ``write_metrics`` fills them in once they were measured.

    Raises:
        BundleError: when the source is missing or damaged.
        InputError: when the source is compressed already (its rounding would be rounded again), or
            nothing would become smaller.
    """
    manifest = read_manifest(source)
    verify_files(source, manifest)
    if manifest.precision != Precision():
        raise InputError(
            f"bundle {manifest.bundle_id} is compressed already ({_said(manifest.precision)}); "
            f"compress {manifest.compressed_from or 'the bundle it was made from'} instead"
        )
    if precision == Precision():
        raise InputError("wanted a precision below float32 for at least one part, found none")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in manifest.files:
        if name != METRICS_FILE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    if precision.item_vectors != "float32":
        items = load_file(source / ITEMS_FILE)
        vectors = in_precision(items.pop("vectors"), precision.item_vectors)
        save_file(items | vectors.tensors(), folder / ITEMS_FILE)
    for name, kind in ((TOWERS_FILE, precision.towers), (RANKER_FILE, precision.ranker)):
        if kind == "int8":
            save_file(pack(load_file(source / name)), folder / name)
    return write_metrics(
        folder,
        manifest.model_copy(
            update={
                "precision": precision, "compressed_from": manifest.bundle_id,
                "created_ms": now_ms,
            }
        ),
        {},
    )  # fmt: skip


def write_metrics(folder: Path, manifest: Manifest, metrics: Mapping[str, Any]) -> Manifest:
    """Write ``metrics`` and the manifest over all files in ``folder``, and give it."""
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=1, sort_keys=True))
    files = {
        str(path.relative_to(folder)): file_entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    written = manifest.model_copy(update={"metrics": dict(metrics), "files": files})
    # What was validated is what is written: a value that JSON changes would change the id.
    written = Manifest.model_validate_json(written.model_dump_json()).with_id()
    written.write(folder)
    return written


def _said(precision: Precision) -> str:
    return (
        f"item vectors {precision.item_vectors}, towers {precision.towers}, "
        f"ranker {precision.ranker}"
    )
