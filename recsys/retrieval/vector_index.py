"""An approximate index of item vectors: inverted lists of four-bit codes, as faiss scans them.

Space is cut into cells around centres. A search looks into the cells nearest to the user, and there
at four bits of each element of what an item differs by from its centre: what each of the sixteen
values is worth to the user stands in vector registers, and 32 items are looked up at once. The best
found are scored anew with the vectors themselves by whoever asked. How many cells are looked into
and how many are scored anew is measured when the index is built (``index_build.py``).

Chosen by measurement among faiss's and others' (docs/retrieval.md). Sources: Sivic & Zisserman 2003
(inverted lists); Jégou et al. 2011, section IV.B (codes of residuals), each element a part of its
own; André et al. 2015 (looking up in registers).

Axes: ``B`` users, ``N`` items (row 0 is padding), ``D`` embedding, ``k`` wanted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from recsys.errors import BundleError
from recsys.features.batch import Float32s, Int64s
from recsys.large_pages import move_to_large_pages

DEFAULT_OVERSAMPLE = 2.5
"""Of indexes from before it was set by measurement."""
BITS = 4
_USER_BY_USER = 11
"""How faiss goes over lists: each user's by themselves, not each list for all users who look into
it. It takes .26 ms where its own choice takes .30, and of 32 users .214 where that takes .224."""


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

    def __init__(
        self, index: faiss.IndexIVFPQFastScan, oversample: float = DEFAULT_OVERSAMPLE
    ) -> None:
        """Take an index of items ``1 … N`` under the numbers ``0 … N - 1``."""
        self._index = index
        self._index.implem = _USER_BY_USER
        self._oversample = oversample
        self._size = int(index.d)
        self._num_items = int(index.ntotal)
        _move_to_large_pages(index)
        # What ``search`` calls when all is looked after; faiss's stubs miss it.
        self._search: Any = index.search_c  # type: ignore[attr-defined]

    @property
    def num_items(self) -> int:
        """N."""
        return self._num_items

    @property
    def num_cells(self) -> int:
        """Cells there are."""
        return int(self._index.nlist)

    @property
    def num_probes(self) -> int:
        """Cells that are looked into."""
        return int(self._index.nprobe)

    @property
    def oversample(self) -> float:
        """Asked for beyond what is wanted and scored anew: four bits err in the order of near
        equals."""  # fmt: skip
        return self._oversample

    def set_to(self, *, num_probes: int, oversample: float) -> None:
        """Set how it searches; not while it is searched."""
        self._index.nprobe = num_probes
        self._oversample = oversample

    def allowed(self, refused: Tensor) -> Allowed | None:
        """Give what is left of ``[N + 1]`` refused rows, for searches to come; None: all rows."""
        mine = refused[1 : self.num_items + 1]
        return Allowed(mine, self.num_probes) if mine.any() else None

    def search(self, users: Tensor, count: int, allowed: Allowed | None = None) -> Tensor:
        """Give ``[B, oversample x count]`` int64 rows that may be near; 0 pads.

        Args:
            users: ``[B, D]`` on the CPU.
            count: Wanted of each.
            allowed: What may be found; None: every row.
        """
        return self.nearby(users, self.oversampled(count), allowed)

    def oversampled(self, count: int) -> int:
        """Say how many are scored anew where ``count`` are wanted."""
        return round(self._oversample * count)

    def nearby(self, users: Tensor, wanted: int, allowed: Allowed | None = None) -> Tensor:
        """Give ``[B, wanted]`` int64 rows, nearest first by four-bit codes; 0 pads."""
        return torch.from_numpy(self.rows_near(users.float().contiguous().numpy(), wanted, allowed))

    def rows_near(self, users: Float32s, wanted: int, allowed: Allowed | None) -> Int64s:
        """Do the same for a contiguous array."""
        wanted = min(wanted, self.num_items)
        parameters = None if allowed is None else allowed.parameters
        use_threads_for(len(users))
        rows: Int64s = self._index.search(users, wanted, params=parameters)[1]
        rows += 1  # faiss pads with -1
        return rows

    def rows_near_one(self, user: Float32s, wanted: int, allowed: Allowed | None) -> Int64s:
        """Do the same for a contiguous ``[1, D]``, past what faiss's Python looks after for many.

        What is written to is made anew each time, which takes a third of a microsecond: a search
        may run beside another.
        """
        assert user.shape == (1, self._size) and user.dtype == np.float32
        wanted = min(wanted, self._num_items)
        parameters = None if allowed is None else allowed.parameters
        rows: Int64s = np.empty((1, wanted), np.int64)
        near = np.empty((1, wanted), np.float32)
        faiss.omp_set_num_threads(1)
        self._search(
            1, faiss.swig_ptr(user), wanted, faiss.swig_ptr(near), faiss.swig_ptr(rows), parameters
        )
        rows += 1
        return rows

    def folded(self, rows: Tensor, vectors: Tensor) -> VectorIndex:
        """Give another index, in memory, in which ``[M]`` rows have ``[M, D]`` vectors.

        Rows that are not in this one are added. The cells stay where they were learned.
        """
        index: Any = faiss.clone_index(self._index)
        numbers = np.ascontiguousarray(rows.numpy()) - 1
        faiss.omp_set_num_threads(1)
        _remove(index, numbers)
        index.add_with_ids(np.ascontiguousarray(vectors.float().numpy()), numbers)
        return VectorIndex(index, self._oversample)

    def write(self, path: Path) -> None:
        """Write the file that ``read_index`` reads."""
        faiss.write_index(self._index, str(path))


def read_index(
    path: Path, *, num_items: int, oversample: float = DEFAULT_OVERSAMPLE
) -> VectorIndex:
    """Read the index in ``path`` into memory: forty bytes for an item of 64 elements.

    ``oversample`` is not in the file: whoever wrote it keeps it (``Manifest.index``).

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
    return VectorIndex(index, oversample)


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


def _move_to_large_pages(index: Any) -> None:
    """Move the lists into large pages: a search reads some 64 of 4,000, 8 kB here and there."""
    lists = faiss.downcast_InvertedLists(index.invlists)
    cells = range(lists.nlist)
    sizes = np.array([lists.list_size(cell) for cell in cells])
    for begin, width in ((lists.get_codes, index.code_size), (lists.get_ids, 8)):
        address = np.array([int(begin(cell)) if sizes[cell] else 0 for cell in cells])
        move_to_large_pages(address[sizes > 0], sizes[sizes > 0] * width)


def use_threads_for(num_users: int) -> None:
    """Have faiss use as many threads as torch; one for one user, whom waking others would cost."""
    faiss.omp_set_num_threads(torch.get_num_threads() if num_users > 1 else 1)
