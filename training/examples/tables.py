"""Tensors as Parquet and back: one column for each, a fixed-size list where there are more axes.

Axes: ``E`` examples.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.ragged import RaggedTensor

Column = NDArray[np.generic] | RaggedTensor
ROW_GROUP = 2048
_SHAPE = b"shape"


def to_parquet(columns: Mapping[str, Column], note: Mapping[str, object] | None = None) -> bytes:
    """Give a Parquet file of ``[E, ...]`` columns; the same columns give the same bytes.

    ``note`` travels in the file's metadata as JSON.
    """
    arrays, fields = [], []
    for name, column in columns.items():
        array, shape = _array(column)
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata={_SHAPE: json.dumps(shape)}))
    schema = pa.schema(fields, metadata={b"note": json.dumps(note or {})})
    data = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema), data, row_group_size=ROW_GROUP,
        compression="zstd",
    )  # fmt: skip
    return data.getvalue()


def from_parquet(
    path: Path, columns: Sequence[str] | None = None
) -> tuple[dict[str, Tensor | RaggedTensor], dict[str, object]]:
    """Give the columns of a file that ``to_parquet`` made, and its note."""
    table = pq.read_table(path, columns=None if columns is None else list(columns))
    found: dict[str, Tensor | RaggedTensor] = {}
    for field, chunks in zip(table.schema, table.columns, strict=True):
        found[field.name] = _tensor(chunks.combine_chunks(), json.loads(field.metadata[_SHAPE]))
    return found, json.loads(table.schema.metadata[b"note"])


def _array(column: Column) -> tuple[pa.Array, list[int] | None]:
    if isinstance(column, RaggedTensor):
        offsets = pa.array(column.offsets.numpy().astype(np.int32))
        values = pa.array(column.values.numpy().astype(np.int32))
        return pa.ListArray.from_arrays(offsets, values), None
    flat = pa.array(np.ascontiguousarray(column).reshape(-1))
    shape = list(column.shape[1:])
    if not shape:
        return flat, shape
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))), shape


def _tensor(array: pa.Array, shape: list[int] | None) -> Tensor | RaggedTensor:
    if isinstance(array, pa.ChunkedArray):  # an empty table has no chunk to combine
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if shape is None:
        offsets = array.offsets.to_numpy().astype(np.int64)
        values = array.values.to_numpy()[offsets[0] : offsets[-1]] if len(offsets) else []
        return RaggedTensor(
            values=torch.from_numpy(np.array(values, dtype=np.int64)),
            offsets=torch.from_numpy(offsets - offsets[0]),
        )
    flat = array.flatten() if shape else array
    values = flat.to_numpy(zero_copy_only=False)
    # Arrow's memory may not be written to, and may be one bit a value.
    return torch.from_numpy(values.reshape(len(array), *shape).copy())
