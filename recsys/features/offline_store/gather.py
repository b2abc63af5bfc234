"""Fetch chosen rows of a source: only their columns, only row groups that hold one of them.

The join chooses rows by their keys and times alone; features are read afterwards, so that what
nobody asked for is decoded at most once and never held.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.features.offline_store.label_order import Int64s
from recsys.features.offline_store.parts import Parts, RowGroup

_BLOCK_BYTES = 1 << 30  # Arrow's offsets of strings and lists are 32 bits: stay well below 2 GiB
_MOST_SPAN = 8
"""Positions for each row of the answer, up to which a table of them is kept: 5 bytes each."""


def gather(parts: Parts, rows: Int64s, columns: Sequence[str], max_bytes: int) -> pa.Table:
    """Rows of a source by position.

    Args:
        parts: The source.
        rows: A position for each row of the answer (L,), in any order, repeated as often as
            wanted; -1 gives nulls.
        columns: Which columns, in this order.
        max_bytes: How much of the source to hold at once.

    Returns:
        A table of L rows.
    """
    wanted, at = _distinct(rows)
    chosen = [table for table in _chosen(parts, wanted, columns, max_bytes) if table.num_rows]
    kinds = parts.types(columns)
    schema = pa.schema([pa.field(n, k) for n, k in zip(columns, kinds, strict=True)])
    table = pa.concat_tables(chosen) if chosen else schema.empty_table()
    del chosen
    indices = pa.array(at, mask=(at < 0) if at.min(initial=0) < 0 else None)
    arrays = []
    for name in columns:
        column = table.column(name)
        arrays.append(_taken(column, indices))
        table = table.drop_columns([name])
    return pa.table(arrays, schema=schema) if columns else pa.table({})


def _distinct(rows: Int64s) -> tuple[Int64s, npt.NDArray[np.signedinteger]]:
    """The positions among ``rows``, ascending, and the place of each among them; -1 stays -1."""
    low, high = int(rows.min(initial=0)), int(rows.max(initial=-1))
    if high < min(_MOST_SPAN * len(rows), 1 << 31):
        # Marked in a table of all positions: that is quicker by far than sorting them, and the last
        # place of the table, which -1 finds, is nobody's.
        marked = np.zeros(high + 2, dtype=bool)
        marked[rows] = True
        marked[-1] = False
        place = np.cumsum(marked, dtype=np.int32)
        place -= 1
        place[-1] = -1
        return np.flatnonzero(marked), place[rows]
    wanted, at = np.unique(rows, return_inverse=True)
    none = int(low < 0)
    return wanted[none:], at - none


def _chosen(parts: Parts, wanted: Int64s, columns: Sequence[str], max_bytes: int) -> list[pa.Table]:
    """The wanted rows, once each, in the order of the source."""
    groups: list[RowGroup] = []
    for group in parts.row_groups:
        low, high = np.searchsorted(wanted, (group.first_row, group.first_row + group.num_rows))
        if low < high:
            groups.append(group)
    taken = []
    for table, positions in parts.chunks(groups, columns, max_bytes):
        low, high = np.searchsorted(wanted, (positions[0], positions[-1] + 1))
        if high - low == table.num_rows:
            taken.append(table)
            continue
        some = wanted[low:high]
        together = positions[-1] - positions[0] + 1 == len(positions)
        places = some - positions[0] if together else np.searchsorted(positions, some)
        taken.extend(_rows_of(table, places))
    return taken


def _rows_of(table: pa.Table, rows: Int64s) -> list[pa.Table]:
    """Ascending rows of a table, from each of its batches: none is copied to be one with others."""
    taken, first = [], 0
    for batch in table.to_batches():
        low, high = np.searchsorted(rows, (first, first + batch.num_rows))
        if low < high:
            found = batch.take(pa.array(rows[low:high] - first))
            taken.append(pa.Table.from_batches([found]))
        first += batch.num_rows
    return taken


def _taken(column: pa.ChunkedArray, indices: pa.Array) -> pa.ChunkedArray:
    if not len(indices):
        return column.slice(0, 0)
    if not len(column):
        return pa.chunked_array([pa.nulls(len(indices), column.type)])
    whole = column.combine_chunks()
    per_row = max(column.nbytes // len(column), 1)
    block = max(_BLOCK_BYTES // per_row, 1)
    pieces: list[pa.Array] = []
    for start in range(0, len(indices), block):
        piece = whole.take(indices[start : start + block])
        pieces.extend(piece.chunks if isinstance(piece, pa.ChunkedArray) else [piece])
    return pa.chunked_array(pieces, type=column.type)
