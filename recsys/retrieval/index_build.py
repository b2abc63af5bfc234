"""Building an approximate index, and setting it so that it finds enough for each kind of user.

Two numbers are set by measurement: how many cells a search looks into, and how many items it gives
to be scored anew. Where too few cells are looked into, what lies in others is missed; where too
few items are scored anew, what four bits put in the wrong order is. Users whose histories are
scattered need more of both.

Axes: ``N`` items (row 0 is padding), ``D`` embedding, ``k`` wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from recsys.errors import InputError
from recsys.retrieval.index_recall import KindRecall, Truth, UserKind
from recsys.retrieval.vector_index import BITS, VectorIndex


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How an index is built."""

    recall: float = 0.99
    """Share of the exact ``k`` nearest that is found, for each kind of user."""
    k: int = 100
    """Wanted of a search; of a bundle's index, the candidates of a request."""
    cells_by_root: float = 4.0
    """Cells for each square root of the number of items: 4,000 at a million."""
    training_items: int = 60
    """For each cell, to learn its centre from."""
    coded_from_cells: int = 1_000
    """From so many cells on, those to look into are chosen by codes of their centres, twice
    as many, and among these by the centres: 4,000 centres take a megabyte of a cache of two,
    their codes an eighth (docs/retrieval.md)."""
    seed: int = 1


INDEX = IndexConfig()
MIN_ITEMS = 2_000
"""Fewer are searched exactly in less time than a cell is chosen."""
_CHOSEN_AMONG = 2
"""Cells compared by their centres for each that is looked into: of 64 among 4,000 one other a user
is chosen than by all centres, and the same recall is had."""
_OVERSAMPLES = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
_PROBES = (
    *(1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    *(640, 768, 1024, 1536, 2048),
)
_KEPT_OVER_SCANNED = 40.0
"""What scoring an item anew costs, in items gone over in cells: 20 for a user alone, 60 of 32
(300,000 items, 64 to 384 cells, 250 to 2,500 scored anew). Nothing is timed while building: the
same bundle has the same index on every machine."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BuiltIndex:
    """An index, and what it finds."""

    index: VectorIndex
    k: int
    found: tuple[KindRecall, ...]


def build_index(
    vectors: Tensor, kinds: Sequence[UserKind], config: IndexConfig = INDEX
) -> BuiltIndex:
    """Build an index of ``[N + 1, D]`` vectors; the same input gives the same bytes.

    It is set to what costs least of all that finds ``config.recall`` for every kind of user.

    Args:
        vectors: Row 0 is padding.
        kinds: Users as they will ask, a few hundred of each kind.
        config: What is wanted of it.

    Raises:
        InputError: when there are too few items or no users, or no setting gives the recall.
    """
    items = np.ascontiguousarray(vectors[1:].float().cpu().numpy())
    if len(items) < MIN_ITEMS:
        raise InputError(
            f"an approximate index wants {MIN_ITEMS} items or more, found {len(items)}; fewer are "
            "searched exactly in less time"
        )
    with one_thread():  # sums in one order: the bytes are part of a bundle's id
        index = _learned(items, config)
    return set_index(index, vectors, kinds, config)


def set_index(
    index: VectorIndex, vectors: Tensor, kinds: Sequence[UserKind], config: IndexConfig
) -> BuiltIndex:
    """Set an index of ``[N + 1, D]`` vectors as ``build_index`` does; it is changed in place."""
    with one_thread():
        return _set(index, Truth(vectors.float().cpu(), kinds, config.k), config)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute by one thread, torch's and faiss's, so that sums round the same everywhere."""
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        faiss.omp_set_num_threads(threads[1])


def _learned(items: np.ndarray, config: IndexConfig) -> VectorIndex:
    """Learn cells and codes of ``[N, D]`` items, and put them in."""
    count, size = items.shape
    cells = min(round(config.cells_by_root * count**0.5), count // 39)  # faiss wants 39 a centre
    centres = faiss.IndexFlatIP(size)
    index = faiss.IndexIVFPQFastScan(centres, size, cells, size, BITS, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = True
    index.cp.seed = index.pq.cp.seed = config.seed
    rng = np.random.default_rng(config.seed)
    sample = rng.choice(count, min(config.training_items * cells, count), replace=False)
    index.train(items[np.sort(sample)])
    index.add(items)
    if cells >= config.coded_from_cells:
        index = _with_coded_centres(index, centres.reconstruct_n(0, cells), config.seed)
    return VectorIndex(index)


def _with_coded_centres(index: Any, centres: np.ndarray, seed: int) -> Any:
    """Give the index with cells chosen by codes of their ``[cells, D]`` centres first."""
    size = centres.shape[1]
    codes = faiss.IndexPQFastScan(size, size, BITS, faiss.METRIC_INNER_PRODUCT)
    codes.pq.cp.seed = seed
    codes.pq.cp.min_points_per_centroid = 1
    codes.train(centres)
    codes.add(centres)
    chooser = faiss.IndexRefineFlat(codes, faiss.swig_ptr(centres))
    chooser.k_factor = _CHOSEN_AMONG
    index.quantizer = chooser
    # What was read owns its parts; these belong to variables of this function.
    return faiss.deserialize_index(faiss.serialize_index(index))


def _set(index: VectorIndex, truth: Truth, config: IndexConfig) -> BuiltIndex:
    """Give the index as it costs least and holds for every kind."""
    a_cell = index.num_items / index.num_cells
    best: tuple[float, int, float, tuple[KindRecall, ...]] | None = None
    lowest = [0.0]
    for probes in [n for n in _PROBES if n < index.num_cells] + [index.num_cells]:
        if best is not None and probes * a_cell >= best[0]:
            break
        index.set_to(num_probes=probes, oversample=_OVERSAMPLES[-1])
        lowest = truth.lowest_by_oversample(index, _OVERSAMPLES)
        for oversample, about in zip(_OVERSAMPLES, lowest, strict=True):
            cost = probes * a_cell + _KEPT_OVER_SCANNED * oversample * truth.k
            if best is not None and cost >= best[0]:
                break
            if about < config.recall:
                continue
            index.set_to(num_probes=probes, oversample=oversample)
            found = truth.recall(index)
            if all(kind.recall >= config.recall for kind in found if kind.is_held):
                best = cost, probes, oversample, found
                break
    if best is None:
        raise InputError(
            f"wanted recall@{truth.k} {config.recall} of an approximate index for every kind of "
            f"user, found {lowest[-1]:.4f} for one of {', '.join(k.name for k in truth.kinds)} "
            "with all its cells; these vectors want an exact search"
        )
    index.set_to(num_probes=best[1], oversample=best[2])
    return BuiltIndex(index=index, k=truth.k, found=best[3])
