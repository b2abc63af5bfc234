"""From a bundle's folder to the model that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from recsys.bundle.item_tags import ItemTags
from recsys.bundle.manifest import Manifest, read_manifest, verify_files
from recsys.bundle.served import CATALOGUE_FILE
from recsys.compression.int8_linear import use_int8
from recsys.compression.item_vectors import of_tensors
from recsys.compression.weights import unpack
from recsys.errors import BundleError
from recsys.models.item_table import ItemTable
from recsys.models.ranker import Ranker
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import ServingModel
from recsys.models.two_tower import TwoTower
from recsys.models.without_weights import without_weights
from recsys.retrieval.item_filter import ItemFilters
from recsys.retrieval.mix import build_sources

if TYPE_CHECKING:
    from recsys.retrieval.vector_index import VectorIndex  # faiss, where there is one

INDEX_FILE = "items.index"
"""Approximate index of the item vectors, in bundles that have one (``indexed.py``)."""
TOWERS_FILE = "towers.safetensors"
RANKER_FILE = "ranker.safetensors"
ITEMS_FILE = "items.safetensors"
"""``vectors`` (with ``vector_scale`` in int8), ``available``, ``activity``, ``neighbour_index``,
``neighbour_weight``, ``popular_weights``, ``activity_as_of_ms``."""
_TABLE = "items.table."
_OF_ITEMS = ("items.identity.", _TABLE)
"""Weights with a row for each item."""


def load_serving_model(path: Path, device: str = "cpu", *, room: int = 0) -> ServingModel:
    """Give the model of the bundle in folder ``path``, its files verified.

    Args:
        path: ``<bundle_dir>/<bundle_id>``.
        device: ``"cpu"`` or ``"cuda"`` (``"cuda:1"`` …).
        room: How many items may be added while it is served.

    Raises:
        BundleError: when the bundle is missing, damaged or of another version.
    """
    path = Path(path)
    manifest = read_manifest(path)
    verify_files(path, manifest)
    try:
        return _build(path, manifest, torch.device(device), room)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise BundleError(
            f"bundle {manifest.bundle_id} cannot be loaded on {device}: {error}"
        ) from error


def _build(path: Path, manifest: Manifest, device: torch.device, room: int) -> TorchServingModel:
    items = load_file(path / ITEMS_FILE, device=str(device))
    dimensions = manifest.dimensions
    with without_weights():
        table = ItemTable.empty(
            manifest.num_items,
            manifest.towers.num_words,
            manifest.ranker.num_item_tokens,
            manifest.ranker.content_size,
            sum(aspect.size for aspect in manifest.ranker.aspects),
        )
        towers = TwoTower(manifest.towers, dimensions, table)
        ranker = Ranker(manifest.ranker, dimensions, table, manifest.towers.embedding_size)
    # Mapped apart from the rest: where there is room behind, rows are copied, and theirs let go.
    mapped = load_file(path / TOWERS_FILE)
    table_rows = {name: rows for name, rows in mapped.items() if name.startswith(_TABLE)}
    del mapped
    _load(towers, unpack(load_file(path / TOWERS_FILE)) | table_rows)
    del table_rows
    _load(ranker, unpack(load_file(path / RANKER_FILE)), shared=("table.",))
    if manifest.precision.towers == "int8":
        use_int8(towers.users)
    if manifest.precision.ranker == "int8":
        use_int8(ranker)
    weights = torch.tensor([o.weight for o in manifest.objectives], device=device)
    return TorchServingModel(
        dimensions=dimensions,
        towers=towers.to(device),
        ranker=ranker.to(device),
        sources=build_sources(
            manifest.sources,
            neighbour_index=items["neighbour_index"],
            neighbour_weight=items["neighbour_weight"],
            popular_weights=items["popular_weights"],
            index=_index(path, manifest) if device.type == "cpu" else None,
        ),
        mix=manifest.sources,
        objective_weights=weights,
        item_vectors=of_tensors(
            load_file(path / ITEMS_FILE, device=str(device)), manifest.precision.item_vectors
        ),
        available=items["available"],
        item_activity=items["activity"],
        item_activity_as_of_ms=int(items["activity_as_of_ms"]),
        item_filters=ItemFilters(_tags(path), num_items=manifest.num_items, device=device),
        room=room,
    )


def _index(path: Path, manifest: Manifest) -> VectorIndex | None:
    if INDEX_FILE not in manifest.files:
        return None
    from recsys.retrieval.vector_index import DEFAULT_OVERSAMPLE, read_index

    oversample = DEFAULT_OVERSAMPLE if manifest.index is None else manifest.index.oversample
    return read_index(path / INDEX_FILE, num_items=manifest.num_items, oversample=oversample)


def _tags(path: Path) -> ItemTags:
    # Here, because polars takes a third of a second to import.
    from recsys.data.catalogue import read_catalogue_frame

    return ItemTags.of_catalogue(read_catalogue_frame(path / CATALOGUE_FILE))


def _load(module: nn.Module, weights: dict[str, Tensor], shared: tuple[str, ...] = ()) -> None:
    """Load weights; entries under ``shared`` belong to a part another file has filled.

    Rows of items stay mapped from the file: most are looked at only when their item is described
    anew. The other weights are copied, so that products find them where memory is aligned.
    """
    held = {n: rows if n.startswith(_OF_ITEMS) else rows.clone() for n, rows in weights.items()}
    missing, unexpected = module.load_state_dict(held, strict=False, assign=True)
    missing = [name for name in missing if not name.startswith(shared or ("\0",))]
    if missing or unexpected:
        raise KeyError(f"missing weights {missing}, unexpected weights {unexpected}")
