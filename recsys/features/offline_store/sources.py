"""Feast's ``FileSource`` as ``Parts``: a file, a folder of part files, a pattern, or S3.

Order is by name: ``a.parquet`` before ``b.parquet``. Rows appended by ``writes`` to a source that
is one file ``x.parquet`` lie in the folder ``x.parquet.parts`` and come after it.
"""

from __future__ import annotations

import fnmatch
from pathlib import PurePosixPath
from typing import Any

from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from pyarrow import fs

from recsys.errors import ConfigurationError, FeatureError
from recsys.features.offline_store.parts import Parts

APPENDED = ".parts"
"""What the folder of rows appended to one file is called after the file's name."""


def located(source: DataSource | None, repo_path: Any) -> tuple[fs.FileSystem, str]:
    """The file system and the path (may be a pattern) of a source.

    Raises:
        ConfigurationError: it is no ``FileSource`` of Parquet.
    """
    if not isinstance(source, FileSource):
        raise ConfigurationError(
            f"the point-in-time offline store reads FileSource, found "
            f"{type(source).__name__} {getattr(source, 'name', '')!r}; declare a FileSource, or "
            "route this source to another store with Feast's hybrid offline store"
        )
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        raise ConfigurationError(
            f"source {source.name!r}: wanted Parquet, found {type(source.file_format).__name__}"
        )
    uri = FileSource.get_uri_for_file_path(repo_path=repo_path, uri=source.path)
    return at(uri, source.s3_endpoint_override or "", source.resolve_credentials())


def at(
    uri: str, s3_endpoint: str = "", credentials: dict[str, str] | None = None
) -> tuple[fs.FileSystem, str]:
    """The file system of an address, and the path in it, as Feast's ``FileSource`` has them."""
    filesystem, path = FileSource.create_filesystem_and_path(uri, s3_endpoint, credentials)
    if filesystem is None:
        if "://" in uri:
            return fs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
        filesystem = fs.LocalFileSystem()
    return filesystem, path.rstrip("/")


def is_pattern(path: str) -> bool:
    """Whether a path stands for every file that matches it."""
    return any(sign in path for sign in "*?[")


def parts_of(source: DataSource | None, repo_path: Any) -> Parts:
    """All part files of a source, in log order.

    Raises:
        FeatureError: there is none.
    """
    filesystem, path = located(source, repo_path)
    origin = f'source "{source.name}" ({path})' if source is not None else path
    if is_pattern(path):
        fixed = PurePosixPath(path)
        while is_pattern(str(fixed)):
            fixed = fixed.parent
        files = [f for f in _under(filesystem, str(fixed)) if _matches(f, path)]
        root = str(fixed)
    else:
        info = filesystem.get_file_info(path)
        root = path
        files = _under(filesystem, path) if info.type == fs.FileType.Directory else []
        if info.type == fs.FileType.File:
            files, root = [path, *_under(filesystem, path + APPENDED)], path + APPENDED
    if not files:
        raise FeatureError(
            f"{origin}: found no Parquet file; check the path, or write a first part with "
            "store.write_to_offline_store"
        )
    return Parts(tuple(files), filesystem, origin, tuple(_said(f, root) for f in files))


def _under(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Part files in a folder and below, by name; ``.`` or ``_`` in front means unfinished."""
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    found = []
    for info in filesystem.get_file_info(selector):
        inside = PurePosixPath(info.path).relative_to(PurePosixPath(folder))
        if (
            info.type == fs.FileType.File
            and info.base_name.endswith((".parquet", ".parq", ".pq"))
            and not any(name.startswith((".", "_")) for name in inside.parts)
        ):
            found.append(info.path)
    return sorted(found)


def _matches(path: str, pattern: str) -> bool:
    """Shell rules: ``*`` stays within a folder, ``**`` is any number of folders."""
    return _match(PurePosixPath(path).parts, PurePosixPath(pattern).parts)


def _match(names: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_match(names[n:], patterns[1:]) for n in range(len(names) + 1))
    return bool(
        names and fnmatch.fnmatchcase(names[0], patterns[0]) and _match(names[1:], patterns[1:])
    )


def _said(path: str, root: str) -> dict[str, str]:
    """Columns that the names of folders below ``root`` tell (``day=2026-01-01/``)."""
    try:
        folders = PurePosixPath(path).relative_to(PurePosixPath(root)).parts[:-1]
    except ValueError:
        return {}
    return dict(folder.split("=", 1) for folder in folders if "=" in folder)
