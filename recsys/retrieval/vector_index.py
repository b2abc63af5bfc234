"""An approximate index of item vectors: inverted lists of four-bit codes, as faiss scans them.

Space is cut into cells around centres. A search looks into the cells nearest to the user, and there
at four bits of each element of what an item differs by from its centre: what each of the sixteen
values is worth to the user stands in vector registers, and 32 items are looked up at once. The best
found are scored anew with the vectors themselves by whoever asked. How many cells are looked into
is measured when the index is built: as few as give the recall asked for on the users it is shown.

Chosen by measurement among faiss's and others' (docs/retrieval.md). Sources: Sivic & Zisserman 2003
(inverted lists); Jégou et al. 2011, section IV.B (codes of residuals), each element a part of its
own; André et al. 2015 (looking up in registers).

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
from recsys.features.batch import Int64s


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
_OVERSAMPLE = 2.5
"""Asked for beyond what is wanted, and scored anew: four bits err in the order of near equals. With
twice as many three in a thousand more are missed; four times as many take .06 ms more."""
_BITS = 4
_USER_BY_USER = 11
"""How faiss goes over lists: each user's by themselves, not each list for all users who look into
it. It takes .26 ms where its own choice takes .30, and of 32 users .214 where that takes .224."""
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
    """The rows a search may find, as bits that it tests by each row that comes near enough."""

    def __init__(self, refused: Tensor, num_probes: int) -> None:
        """Take ``[N]`` bool of what must not be found, and how many cells are looked into."""
        self._bits = np.packbits(~refused.cpu().numpy(), bitorder="little")
        self._selector = faiss.IDSelectorBitmap(len(refused), faiss.swig_ptr(self._bits))
        self.parameters = faiss.SearchParametersIVF()
        """Of faiss; made once, since making them takes as long as a step of a search."""
        self.parameters.sel = self._selector
        self.parameters.nprobe = num_probes


class VectorIndex:
    """Finds rows whose vectors are near a user's."""

    def __init__(self, index: faiss.IndexIVFPQFastScan) -> None:
        """Take an index of items ``1 … N`` under the numbers ``0 … N - 1``."""
        self._index = index
        self._index.implem = _USER_BY_USER

    @property
    def num_items(self) -> int:
        """N."""
        return int(self._index.ntotal)

    @property
    def num_probes(self) -> int:
        """Cells that are looked into."""
        return int(self._index.nprobe)

    def allowed(self, refused: Tensor) -> Allowed | None:
        """Give what is left of ``[N + 1]`` refused rows, for searches to come; None: all rows."""
        mine = refused[1 : self.num_items + 1]
        return Allowed(mine, self.num_probes) if mine.any() else None

    def search(self, users: Tensor, count: int, allowed: Allowed | None = None) -> Tensor:
        """Give ``[B, about 2.5 x count]`` int64 rows that may be near, in no order; 0 pads.

        Args:
            users: ``[B, D]`` on the CPU.
            count: Wanted of each.
            allowed: What may be found; None: every row.
        """
        wanted = min(round(_OVERSAMPLE * count), self.num_items)
        parameters = None if allowed is None else allowed.parameters
        vectors = users.float().contiguous().numpy()
        faiss.omp_set_num_threads(torch.get_num_threads())
        found = self._index.search(vectors, wanted, params=parameters)[1]
        return torch.from_numpy(found).add_(1)  # faiss pads with -1

    def folded(self, rows: Tensor, vectors: Tensor) -> VectorIndex:
        """Give another index, in memory, in which ``[M]`` rows have ``[M, D]`` vectors.

        Rows that are not in this one are added. The cells stay where they were learned.
        """
        index: Any = faiss.clone_index(self._index)
        numbers = np.ascontiguousarray(rows.numpy()) - 1
        faiss.omp_set_num_threads(1)
        _remove(index, numbers)
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
    index = faiss.IndexIVFPQFastScan(centres, size, cells, size, _BITS, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = True
    index.cp.seed = index.pq.cp.seed = config.seed
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
    """Read the index in ``path`` into memory: forty bytes for an item of 64 elements.

    Raises:
        BundleError: when it is none, or one of another number of items.
    """
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise BundleError(f"{path} is no index ({error}); build it again") from error
    if not isinstance(index, faiss.IndexIVFPQFastScan) or index.ntotal != num_items:
        raise BundleError(
            f"{path}: wanted an IndexIVFPQFastScan of {num_items} items, found "
            f"{type(index).__name__} of {index.ntotal}; build it again from a bundle without one, "
            "or train again"
        )
    return VectorIndex(index)


def _remove(index: Any, numbers: Int64s) -> None:
    """Take ``[M]`` numbers out, and leave the places that become free empty.

    faiss 1.15 leaves what stood there, and an item added later gets both codes, one over the other.
    """
    lists: Any = faiss.downcast_InvertedLists(index.invlists)
    before = [lists.list_size(cell) for cell in range(lists.nlist)]
    index.remove_ids(numbers)
    nothing = np.zeros(index.code_size, dtype=np.uint8)
    for cell, size in enumerate(before):
        left = lists.list_size(cell)
        # Whole blocks that become free are given back.
        for place in range(left, min(size, -(-left // index.bbs) * index.bbs)):
            lists.packer.pack_1_c(faiss.swig_ptr(nothing), place, lists.get_codes(cell))


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
