"""Appending to a source: a new part file, durable and whole or not there at all.

Nothing that was written is ever written again, so a reader never sees a half-made source and a
crash loses at most the batch that was not acknowledged. Names begin with the time: parts of
one writer sort in the order they were written.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.clock import now_ms
from recsys.errors import ConfigurationError, InputError
from recsys.events.durable_files import make_directory, sync_directory
from recsys.features.offline_store.sources import APPENDED, is_pattern

_ROW_GROUP_ROWS = 1 << 17  # small enough to prune by, large enough to read fast
_COUNT = itertools.count()


def part_name() -> str:
    """A name no other writer has, after those this process gave before."""
    return f"part-{now_ms():014d}-{next(_COUNT):06d}-{uuid.uuid4().hex[:12]}.parquet"


def write_part(
    filesystem: fs.FileSystem, folder: str, name: str, rows: pa.Table | Iterable[pa.Table]
) -> str:
    """Write one part file; it is there as a whole when this returns, even after a power cut.

    Args:
        filesystem: Where.
        folder: Of the part; made when it is not there.
        name: Of the part.
        rows: The table, or its pieces of one schema, at least one: each is written as it comes.

    Returns:
        Its path.
    """
    path = f"{folder}/{name}"
    if not isinstance(filesystem, fs.LocalFileSystem):
        with _spooled(rows) as local:
            _upload(local, filesystem, folder, name)
        return path
    make_directory(Path(folder).absolute())
    temporary = Path(folder, f".{name}.tmp")
    try:
        _write(rows, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(Path(folder))
    return path


def _write(rows: pa.Table | Iterable[pa.Table], path: Path) -> None:
    pieces = iter([rows] if isinstance(rows, pa.Table) else rows)
    piece = next(pieces)
    with pq.ParquetWriter(path, piece.schema) as writer:
        while piece is not None:
            writer.write_table(piece, row_group_size=_ROW_GROUP_ROWS)
            del piece  # or two would be held while the next is made
            piece = next(pieces, None)


@contextmanager
def _spooled(rows: pa.Table | Iterable[pa.Table]) -> Iterator[Path]:
    """Rows in a temporary file here: an upload that is closed half-way would show as complete."""
    with tempfile.TemporaryDirectory(prefix="offline_store_") as folder:
        local = Path(folder, "rows.parquet")
        _write(rows, local)
        yield local


def _upload(local: Path, filesystem: fs.FileSystem, folder: str, name: str) -> None:
    # Object stores show an object when its upload is complete, not before.
    filesystem.create_dir(folder, recursive=True)
    fs.copy_files(
        str(local), f"{folder}/{name}",
        source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem,
    )  # fmt: skip


def append(filesystem: fs.FileSystem, path: str, table: pa.Table) -> str:
    """Add rows to a source: a folder, one file, or a pattern.

    Raises:
        ConfigurationError: the source is a pattern that no part's name would match.
    """
    name = part_name()
    if is_pattern(path):
        folder = str(PurePosixPath(path).parent)
        if is_pattern(folder) or not fnmatch.fnmatchcase(name, PurePosixPath(path).name):
            raise ConfigurationError(
                f"cannot append to the pattern {path}: wanted one folder and a pattern that "
                f"{name} matches; declare the folder itself as the source's path"
            )
        return write_part(filesystem, folder, name, table)
    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.File or (
        kind == fs.FileType.NotFound and path.endswith((".parquet", ".parq", ".pq"))
    ):
        return write_part(filesystem, path + APPENDED, name, table)
    return write_part(filesystem, path, name, table)


def append_by(
    filesystem: fs.FileSystem, folder: str, table: pa.Table, partition_by: list[str]
) -> list[str]:
    """Add rows to a folder with a sub-folder (``column=value``) for each value of some columns."""
    if not partition_by:
        return [append(filesystem, folder, table)]
    missing = [name for name in partition_by if name not in table.column_names]
    if missing:
        raise InputError(
            f"cannot partition by {missing}: found columns {table.column_names}", field=missing[0]
        )
    keys = table.select(partition_by)
    written = []
    for values in keys.group_by(partition_by).aggregate([]).to_pylist():
        mask: Any = None
        for name, value in values.items():
            column = keys.column(name)
            same = (
                column.is_null() if value is None else pc.fill_null(pc.equal(column, value), False)
            )
            mask = same if mask is None else pc.and_(mask, same)
        below = "/".join(f"{name}={value}" for name, value in values.items())
        # The columns stay in the file too: their types survive and no name has to be parsed.
        written.append(write_part(filesystem, f"{folder}/{below}", part_name(), table.filter(mask)))
    return written


def replace_data(
    filesystem: fs.FileSystem,
    path: str,
    rows: pa.Table | Iterable[pa.Table],
    *,
    overwrite: bool,
) -> bool:
    """Write a data set of its own at ``path``: one file (``….parquet``) or a folder with one part.

    Returns:
        False, with nothing written, when something is there already and ``overwrite`` is false.
    """
    kind = filesystem.get_file_info(path).type
    if kind != fs.FileType.NotFound and not overwrite:
        return False
    single = path.endswith((".parquet", ".parq", ".pq"))
    folder, name = path.rsplit("/", 1) if "/" in path else (".", path)
    if single and kind != fs.FileType.Directory:
        write_part(filesystem, folder, name, rows)
        # Rows appended to the data set that was there are not part of the new one.
        _remove(filesystem, path + APPENDED)
        return True
    if not isinstance(filesystem, fs.LocalFileSystem):
        with _spooled(rows) as local:  # what is there stays until there is something to follow it
            _remove(filesystem, path)
            _upload(local, filesystem, path, part_name())
        return True
    fresh, old = f"{folder}/.{name}.{uuid.uuid4().hex}", f"{folder}/.{name}.{uuid.uuid4().hex}.old"
    try:
        write_part(filesystem, fresh, part_name(), rows)
        if kind != fs.FileType.NotFound:
            Path(path).rename(old)
        Path(fresh).rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    sync_directory(Path(folder))
    _remove(filesystem, old)
    return True


def _remove(filesystem: fs.FileSystem, path: str) -> None:
    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.Directory:
        filesystem.delete_dir(path)
    elif kind == fs.FileType.File:
        filesystem.delete_file(path)
