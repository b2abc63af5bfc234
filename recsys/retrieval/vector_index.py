"""An approximate index of item vectors: inverted lists of bytes, as faiss keeps them.

Space is cut into cells around centres; a search looks into the cells nearest to the user and at
eight bits of each element there, and the best found are scored anew with the vectors themselves by
whoever asked. How many cells are looked into is measured when the index is built: as few as give
the recall asked for on the users it is shown.

Chosen by measurement among faiss's and others' (docs/retrieval.md). Source: Sivic & Zisserman 2003
(inverted lists); Jégou et al. 2011, section IV.B, with scalar in place of product quantisation.

Axes: ``B`` users, ``N`` items (row 0 is padding), ``D`` embedding, ``k`` wanted, ``Q`` samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from recsys.errors import BundleError, InputError


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How an index is built."""

    recall: float = 0.99
    """Share of the exact ``k`` nearest that is found, on the sample users."""
    k: int = 100
    cells_by_root: float = 4.0
    """Cells for each square root of the number of items: 4,000 at a million."""
    training_items: int = 60
    """For each cell, to learn its centre from."""
    seed: int = 1


INDEX = IndexConfig()
MIN_ITEMS = 2_000
"""Fewer are searched exactly in less time than a cell is chosen."""
_OVERSAMPLE = 1.2
"""Asked for beyond what is wanted, and scored anew: bytes err in the order of near equals."""
_PROBES = (
    1,
    2,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    80,
    96,
    128,
    160,
    192,
    256,
    320,
    384,
    512,
    768,
    1024,
)
_QUERIES_A_BLOCK = 32


class Allowed:
    """The rows a search may find, as bits that it tests each row by."""

    def __init__(self, refused: Tensor) -> None:
        """Take ``[N + 1]`` bool of what must not be found."""
        self._bits = np.packbits(~refused[1:].cpu().numpy(), bitorder="little")
        self.selector = faiss.IDSelectorBitmap(len(refused) - 1, faiss.swig_ptr(self._bits))


class VectorIndex:
    """Finds rows whose vectors are near a user's."""

    def __init__(
        self, index: faiss.IndexIVFScalarQuantizer, *, mapped_from: Path | None = None
    ) -> None:
        """Take an index of items ``1 … N`` under the numbers ``0 … N - 1``.

        ``mapped_from``: the file that its lists are mapped from, where they are.
        """
        self._index = index
        self._mapped_from = mapped_from

    @property
    def num_items(self) -> int:
        """N."""
        return int(self._index.ntotal)

    @property
    def num_probes(self) -> int:
        """Cells that are looked into."""
        return int(self._index.nprobe)

    @staticmethod
    def allowed(refused: Tensor) -> Allowed:
        """Give what is left of ``[N + 1]`` refused rows, for searches to come."""
        return Allowed(refused)

    def search(self, users: Tensor, count: int, allowed: Allowed | None = None) -> Tensor:
        """Give ``[B, about 1.2 x count]`` int64 rows that may be near, in no order; 0 pads.

        Args:
            users: ``[B, D]`` on the CPU.
            count: Wanted of each.
            allowed: What may be found; None: every row.
        """
        wanted = min(round(_OVERSAMPLE * count), self.num_items)
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = self.num_probes
        if allowed is not None:
            parameters.sel = allowed.selector
        vectors = np.ascontiguousarray(users.float().numpy())
        faiss.omp_set_num_threads(torch.get_num_threads())
        found = self._index.search(vectors, wanted, params=parameters)[1]
        return torch.from_numpy(found).add_(1)  # faiss pads with -1

    def folded(self, rows: Tensor, vectors: Tensor) -> VectorIndex:
        """Give another index, in memory, in which ``[M]`` rows have ``[M, D]`` vectors.

        Rows that are not in this one are added. The cells stay where they were learned.
        """
        if self._mapped_from is not None:  # mapped lists cannot be copied
            index: Any = faiss.read_index(str(self._mapped_from))
        else:
            index = faiss.clone_index(self._index)
        numbers = np.ascontiguousarray(rows.numpy()) - 1
        faiss.omp_set_num_threads(1)
        index.remove_ids(numbers)
        index.add_with_ids(np.ascontiguousarray(vectors.float().numpy()), numbers)
        return VectorIndex(index)

    def write(self, path: Path) -> None:
        """Write the file that ``read_index`` reads."""
        faiss.write_index(self._index, str(path))


def build_index(vectors: Tensor, users: Tensor, config: IndexConfig = INDEX) -> VectorIndex:
    """Build an index of ``[N + 1, D]`` vectors; the same input gives the same bytes.

    Args:
        vectors: Row 0 is padding.
        users: ``[Q, D]`` vectors of users as they will ask: a few hundred.
        config: What is wanted of it.

    Raises:
        InputError: when there are too few items, or no number of cells gives the recall.
    """
    items = np.ascontiguousarray(vectors[1:].float().cpu().numpy())
    if len(items) < MIN_ITEMS:
        raise InputError(
            f"an approximate index wants {MIN_ITEMS} items or more, found {len(items)}; fewer are "
            "searched exactly in less time"
        )
    cells = round(config.cells_by_root * len(items) ** 0.5)
    cells = min(cells, len(items) // 39)  # what faiss wants to learn a centre from
    size = items.shape[1]
    centres = faiss.IndexFlatIP(size)
    index = faiss.IndexIVFScalarQuantizer(
        centres, size, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = config.seed
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums in one order: the bytes are part of a bundle's id
    try:
        rng = np.random.default_rng(config.seed)
        count = min(config.training_items * cells, len(items))
        index.train(items[np.sort(rng.choice(len(items), count, replace=False))])
        index.add(items)
    finally:
        faiss.omp_set_num_threads(threads)
    built = VectorIndex(index)
    truth = _exact(vectors, users, min(config.k, len(items)))
    for index.nprobe in [n for n in _PROBES if n < cells] + [cells]:
        found = recall(built, vectors, users, truth)
        if found >= config.recall:
            return built
    raise InputError(
        f"wanted recall@{config.k} {config.recall} of an approximate index, found {found:.4f} with "
        "all its cells; these vectors want an exact search"
    )


def read_index(path: Path, *, num_items: int) -> VectorIndex:
    """Map the index in ``path`` into memory: its lists are read where a search looks.

    Raises:
        BundleError: when it is none, or one of another number of items.
    """
    try:
        # Not IO_FLAG_MMAP, whose lists start threads to read ahead: six times the time of a search.
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise BundleError(f"{path} is no index ({error}); build it again") from error
    if not isinstance(index, faiss.IndexIVFScalarQuantizer) or index.ntotal != num_items:
        raise BundleError(
            f"{path}: wanted an index of {num_items} items, found {type(index).__name__} of "
            f"{index.ntotal}; build it again"
        )
    return VectorIndex(index, mapped_from=path)


def recall(index: VectorIndex, vectors: Tensor, users: Tensor, truth: Tensor) -> float:
    """Give the mean share of the ``[Q, k]`` true rows among the ``k`` best of what is found."""
    hits = 0
    for begin in range(0, len(users), _QUERIES_A_BLOCK):
        block, wanted = users[begin : begin + _QUERIES_A_BLOCK], truth[begin:][:_QUERIES_A_BLOCK]
        rows = index.search(block, truth.shape[1])
        score = torch.bmm(vectors[rows], block.unsqueeze(2)).squeeze(2)
        score.masked_fill_(rows == 0, -torch.inf)
        best = rows.gather(1, score.topk(min(truth.shape[1], rows.shape[1]), dim=1).indices)
        hits += int((best.unsqueeze(2) == wanted.unsqueeze(1)).any(dim=2).sum())
    return hits / truth.numel()


def _exact(vectors: Tensor, users: Tensor, k: int) -> Tensor:
    found = [
        (users[begin : begin + _QUERIES_A_BLOCK] @ vectors[1:].T).topk(k, dim=1).indices + 1
        for begin in range(0, len(users), _QUERIES_A_BLOCK)
    ]
    return torch.cat(found)
