"""A bundle's approximate index: made with it, or later, as another bundle with an id of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.bundle.load import INDEX_FILE, load_serving_model
from recsys.bundle.manifest import MANIFEST_FILE, Manifest, file_entry, read_manifest, verify_files
from recsys.errors import InputError
from recsys.models.serving import TorchServingModel
from recsys.retrieval.vector_index import INDEX, IndexConfig, build_index

NUM_USERS = 512
"""Made up to measure recall on: the mean over as many is known to a thousandth."""
_MAX_HISTORY = 12
_AT_ONCE = 32


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


def add_index(folder: Path, *, now_ms: int, config: IndexConfig = INDEX) -> Manifest:
    """Put an index into the unpublished bundle in ``folder``, which gets another id.

    Killed before the end, the folder holds the bundle without an index, as it was.

    Raises:
        BundleError: when the bundle is missing or damaged.
        InputError: when it has too few items, or vectors that no index is worth.
    """
    manifest = read_manifest(folder)
    model = load_serving_model(folder)
    assert isinstance(model, TorchServingModel)
    index = build_index(model.item_vectors(), _users(model, config.seed), config)
    index.write(folder / INDEX_FILE)
    files = {**manifest.files, INDEX_FILE: file_entry(folder / INDEX_FILE)}
    written = manifest.model_copy(update={"files": files, "created_ms": now_ms}).with_id()
    written.write(folder)
    return written


def _users(model: TorchServingModel, seed: int) -> Tensor:
    """Give vectors ``[Q, D]`` of users whose history is an item and some of its nearest others.

    Nothing of real users has to be at hand, and the vectors are the user tower's: where those lie
    that will ask, not where the items do.
    """
    d = model.dimensions
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(1, model.num_items + 1, (NUM_USERS,), generator=generator)
    near = torch.cat([model.similar(some, k=_MAX_HISTORY)[0] for some in first.view(-1, _AT_ONCE)])
    length = torch.randint(1, _MAX_HISTORY + 1, (NUM_USERS, 1), generator=generator)
    history = torch.cat([first.unsqueeze(1).int(), near], dim=1)[:, : d.history_length]
    history = history * (torch.arange(history.shape[1]) < length)
    used = F.pad(history.flip(1), (d.history_length - history.shape[1], 0))
    nobody = torch.zeros(NUM_USERS, d.num_categories, d.num_category_features)
    user = {
        "history_index": used.int(),
        "history_count": (used != 0).float(),
        "history_age_s": torch.rand(used.shape, generator=generator) * 2e6 * (used != 0),
        "user_tokens": torch.zeros(NUM_USERS, d.num_tokens, dtype=torch.int64),
        "user_dense": torch.zeros(NUM_USERS, d.num_user_features),
        "user_category": nobody,
        "request_tokens": torch.zeros(NUM_USERS, d.num_request_tokens, dtype=torch.int64),
    }
    return model.user_vectors(user)
