"""A source of Parquet: its part files in order, read chunk by chunk, what cannot matter left out.

The order of the parts (by name) and of the rows in them is the source's log order: a row's position
is its number in all of it. Only metadata is held, never an open file, so that a source of thousands
of parts is no trouble; everything here can be pickled and read by another process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import FeatureError
from recsys.features.offline_store.label_order import Int64s
from recsys.features.offline_store.times import Unit

_NANOSECONDS = {"milliseconds": 1_000_000, "microseconds": 1000, "nanoseconds": 1}


@dataclass(frozen=True)
class RowGroup:
    """Some rows of one file.

    Attributes:
        file: Index of the file.
        number: Of the row group in the file.
        first_row: Position of its first row in the whole source.
        num_rows: How many.
    """

    file: int
    number: int
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class Parts:
    """The Parquet files of one source.

    Attributes:
        files: Paths in the file system, in log order.
        filesystem: Where they are.
        origin: What the user called the source, for messages.
        partitions: What the folder names say of each file (``day=1`` of Hive's layout): column to
            value, for columns the file itself does not have.
    """

    files: tuple[str, ...]
    filesystem: fs.FileSystem
    origin: str
    partitions: tuple[dict[str, str], ...] = field(default=())

    @cached_property
    def metadata(self) -> tuple[pq.FileMetaData, ...]:
        """Footers of all files."""
        return tuple(pq.read_metadata(path, filesystem=self.filesystem) for path in self.files)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns of all files together: a later part may have more of them, or wider ones.

        Raises:
            FeatureError: two parts hold types in one column that have nothing in common.
        """
        schemas: list[pa.Schema] = []
        for number, footer in enumerate(self.metadata):
            schema = footer.schema.to_arrow_schema().remove_metadata()
            for name, value in self._partition(number).items():
                if name not in schema.names:
                    schema = schema.append(pa.field(name, _partition_type(value)))
            if schema not in schemas:
                schemas.append(schema)
        try:
            return pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise FeatureError(
                f"{self.origin}: its part files do not fit together: {error}"
            ) from error

    @cached_property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """All row groups in log order."""
        groups, row = [], 0
        for file, footer in enumerate(self.metadata):
            for number in range(footer.num_row_groups):
                size = footer.row_group(number).num_rows
                groups.append(RowGroup(file, number, row, size))
                row += size
        return tuple(groups)

    def types(self, names: Sequence[str]) -> list[pa.DataType]:
        """Types of columns.

        Raises:
            FeatureError: the source has no such column.
        """
        for name in names:
            if name not in self.schema.names:
                raise FeatureError(
                    f'{self.origin} has no column "{name}" (found {", ".join(self.schema.names)}); '
                    "correct the source's declaration or write the column"
                )
        return [self.schema.field(name).type for name in names]

    def between(self, column: str, lowest: int, highest: int, unit: Unit) -> tuple[RowGroup, ...]:
        """Row groups that may have a time of ``column`` in ``[lowest, highest]``."""
        kept = []
        for group in self.row_groups:
            span = self._time_span(group, column, unit)
            if span is None or (span[1] >= lowest and span[0] <= highest):
                kept.append(group)
        return tuple(kept)

    def overlapping(
        self, groups: Sequence[RowGroup], column: str, lowest: Any, highest: Any
    ) -> tuple[RowGroup, ...]:
        """Those of ``groups`` that may have a value of ``column`` in ``[lowest, highest]``."""
        kept = []
        for group in groups:
            found = self._statistics(group, column)
            if (
                found is None
                or type(found.min) is not type(lowest)
                or (found.max >= lowest and found.min <= highest)
            ):
                kept.append(group)
        return tuple(kept)

    def chunks(
        self, groups: Sequence[RowGroup], columns: Sequence[str], max_bytes: int
    ) -> Iterator[tuple[pa.Table, Int64s]]:
        """Read ``columns`` of ``groups`` in order, as many groups at once as ``max_bytes`` hold.

        Yields:
            A table of some rows (N,), and their positions in the source (N,), ascending. Columns
            that a file lacks are null.
        """
        batch: list[RowGroup] = []
        held = 0
        for group in groups:
            size = self.size(group, columns)
            if batch and held + size > max_bytes:
                yield self.read(batch, columns), positions(batch)
                batch, held = [], 0
            batch.append(group)
            held += size
        if batch:
            yield self.read(batch, columns), positions(batch)

    def size(self, group: RowGroup, columns: Sequence[str]) -> int:
        """Bytes these columns of a row group take when read (by the footer, uncompressed)."""
        footer = self.metadata[group.file]
        rows, wanted = footer.row_group(group.number), set(columns)
        encoded = sum(
            rows.column(n).total_uncompressed_size
            for n in range(footer.num_columns)
            if footer.schema.column(n).path.split(".", 1)[0] in wanted
        )
        # A column of few values is much smaller in the file than in memory.
        return int(max(encoded, group.num_rows * 8 * len(columns)))

    def read(self, groups: Sequence[RowGroup], columns: Sequence[str]) -> pa.Table:
        """Read some row groups, in order."""
        tables: list[pa.Table] = []
        start = 0
        while start < len(groups):
            stop = start
            while stop < len(groups) and groups[stop].file == groups[start].file:
                stop += 1
            tables.append(self._read_file(groups[start:stop], columns))
            start = stop
        return pa.concat_tables(tables)

    def _read_file(self, groups: Sequence[RowGroup], columns: Sequence[str]) -> pa.Table:
        number = groups[0].file
        names = self.metadata[number].schema.to_arrow_schema().names
        with pq.ParquetFile(
            self.files[number], filesystem=self.filesystem, metadata=self.metadata[number],
            pre_buffer=not isinstance(self.filesystem, fs.LocalFileSystem),
        ) as file:  # fmt: skip
            table = file.read_row_groups(
                [group.number for group in groups],
                columns=[name for name in columns if name in names],
            )
        rows = sum(group.num_rows for group in groups)
        said = self._partition(number)
        arrays = []
        for name in columns:
            kind = self.schema.field(name).type
            if name in names:
                column = table.column(name)
                arrays.append(column if column.type == kind else column.cast(kind))
            elif name in said:
                arrays.append(pa.repeat(pa.scalar(said[name]).cast(kind), rows))
            else:
                arrays.append(pa.nulls(rows, kind))
        return pa.table(arrays, names=list(columns))

    def _partition(self, file: int) -> dict[str, str]:
        return self.partitions[file] if self.partitions else {}

    def _statistics(self, group: RowGroup, column: str) -> Any:
        footer = self.metadata[group.file]
        index = self._columns[group.file].get(column)
        if index is None:
            return None
        found = footer.row_group(group.number).column(index).statistics
        return found if found is not None and found.has_min_max else None

    @cached_property
    def _columns(self) -> tuple[dict[str, int], ...]:
        return tuple(
            {footer.schema.column(n).path: n for n in range(footer.num_columns)}
            for footer in self.metadata
        )

    def _time_span(self, group: RowGroup, column: str, unit: Unit) -> tuple[int, int] | None:
        """Lowest and highest time of a column by the footer; None when it does not say."""
        found = self._statistics(group, column)
        if found is None or found.physical_type != "INT64":
            return None
        written = json.loads(found.logical_type.to_json()).get("timeUnit")
        if written not in _NANOSECONDS:
            return None
        wanted = 1 if unit == "ns" else 1000
        low, high = (int(raw) * _NANOSECONDS[written] for raw in (found.min_raw, found.max_raw))
        return low // wanted, high // wanted


def positions(groups: Sequence[RowGroup]) -> npt.NDArray[np.int64]:
    """Positions in the source of all rows of ``groups``, in order."""
    found = np.empty(sum(group.num_rows for group in groups), dtype=np.int64)
    start = 0
    for group in groups:
        stop = start + group.num_rows
        found[start:stop] = np.arange(group.first_row, group.first_row + group.num_rows)
        start = stop
    return found


def _partition_type(value: str) -> pa.DataType:
    return pa.int64() if value.lstrip("-").isdigit() else pa.string()
