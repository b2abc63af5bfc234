"""Files that are either wholly there or not there at all, also after a power cut."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


def write_durably(path: Path, data: bytes) -> None:
    """Write ``data`` under a temporary name, then rename; both outlive a crash right after.

    Raises:
        OSError: when it cannot be written. Nothing is left under either name.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        _write(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def create_durably(path: Path, data: bytes) -> None:
    """Write ``data`` to a file that is not there yet; of several who try, one succeeds.

    Raises:
        FileExistsError: when it is there. It is left as it was.
        OSError: when it cannot be written. Nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        _write(temporary, data)
        try:
            os.link(temporary, path)  # unlike a rename it does not replace
        except FileExistsError:
            if temporary.stat().st_nlink != 2:  # over NFS: done, but the answer was lost
                raise
        try:
            sync_directory(path.parent)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_directory(path: Path) -> None:
    """Create a directory whose name outlives a crash; its parents too."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory outlive a crash."""
    sync(path)


def sync(path: Path) -> None:
    """Make what a file holds, or the names in a directory, outlive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
