"""A bundle's approximate index: made with it, or later, as another bundle with an id of its own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from recsys.bundle.index_users import kinds_of_users
from recsys.bundle.load import INDEX_FILE, load_serving_model
from recsys.bundle.manifest import (
    MANIFEST_FILE,
    IndexRecall,
    IndexSetting,
    Manifest,
    file_entry,
    read_manifest,
    verify_files,
)
from recsys.errors import InputError
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import UserContext
from recsys.retrieval.index_build import INDEX, IndexConfig, build_index, one_thread


def write_indexed(
    source: Path, folder: Path, *, now_ms: int, config: IndexConfig = INDEX
) -> Manifest:
    """Write the bundle in ``source`` to ``folder`` with an index; the same bytes each time.

    Its metrics stay those of the exact search.

    Raises:
        BundleError: when the source is missing or damaged.
        InputError: when it has an index, too few items, or vectors that no index is worth.
    """
    manifest = read_manifest(source)
    verify_files(source, manifest)
    if INDEX_FILE in manifest.files:
        raise InputError(f"bundle {manifest.bundle_id} has an index already")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in (*manifest.files, MANIFEST_FILE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    return add_index(folder, now_ms=now_ms, config=config)


def add_index(
    folder: Path, *, now_ms: int, users: UserContext | None = None, config: IndexConfig = INDEX
) -> Manifest:
    """Put an index into the unpublished bundle in ``folder``, which gets another id.

    It is set for as many candidates as a request of this bundle takes. Killed before the end, the
    folder holds the bundle without an index, as it was.

    Args:
        folder: Of the bundle.
        now_ms: When.
        users: ``[Q, ...]`` as the model server would be told of them: some hundreds who will ask.
            None, or few: users are made up.
        config: What is wanted of the index.

    Raises:
        BundleError: when the bundle is missing or damaged.
        InputError: when it has too few items, or vectors that no index is worth.
    """
    manifest = read_manifest(folder)
    model = load_serving_model(folder)
    assert isinstance(model, TorchServingModel)
    config = replace(config, k=manifest.num_candidates)
    with one_thread():
        kinds = kinds_of_users(model, users, seed=config.seed)
        built = build_index(model.item_vectors(), kinds, config)
    index = built.index
    index.write(folder / INDEX_FILE)
    setting = IndexSetting(
        k=built.k, recall_wanted=config.recall, num_cells=index.num_cells,
        num_probes=index.num_probes, oversample=index.oversample,
        found=tuple(
            IndexRecall(
                kind=kind.name, num_users=kind.num_users, recall=round(kind.recall, 5),
                is_held=kind.is_held,
            )
            for kind in built.found
        ),
    )  # fmt: skip
    files = {**manifest.files, INDEX_FILE: file_entry(folder / INDEX_FILE)}
    changed = {"files": files, "created_ms": now_ms, "index": setting}
    written = manifest.model_copy(update=changed).with_id()
    written.write(folder)
    return written
