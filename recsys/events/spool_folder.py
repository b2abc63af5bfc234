"""Whose spool is whose: each process owns a numbered folder for as long as it lives.

::

    <spool_dir>/0/lock  events.sqlite  exposures.sqlite
    <spool_dir>/1/lock  …

A process takes the first folder that nobody has locked, with whatever its last owner left there.
The lock is the kernel's (``flock``): it ends with the process, however that ends. What lies in a
folder that stays without an owner is adopted by a running process (``SpooledWriter``).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import ConfigurationError
from recsys.events.durable_files import make_directory

EVENTS_FILE, EXPOSURES_FILE = "events.sqlite", "exposures.sqlite"
SPOOLS = (EVENTS_FILE, EXPOSURES_FILE)
"""In each folder, where something waits."""
_LOCK = "lock"
_MOST = 1_000


class SpoolFolder:
    """A folder this process alone may touch until ``close``."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def close(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


def take_folder(root: Path) -> SpoolFolder:
    """Give the first folder under ``root`` that nobody owns.

    Raises:
        ConfigurationError: when none can be made or locked there.
    """
    try:
        for number in range(_MOST):
            path = root / str(number)
            make_directory(path)
            if (folder := _lock(path)) is not None:
                return folder
    except OSError as error:
        raise ConfigurationError(
            f"{root}: wanted a folder to spool to, found: {error}; set RECSYS_SPOOL_DIR to a "
            "folder that can be written"
        ) from error
    raise ConfigurationError(f"{root}: wanted a folder nobody owns, found {_MOST} that are owned")


@contextmanager
def orphans(root: Path, name: str) -> Iterator[list[Path]]:
    """Give the files ``name`` in folders that nobody owns; nobody else has them meanwhile."""
    held: list[SpoolFolder] = []
    found: list[Path] = []
    try:
        for path in sorted(root.glob(f"*/{name}")):
            if (folder := _lock(path.parent)) is None:
                continue
            held.append(folder)
            if path.exists():  # its owner may have sent all of it just before it let go
                found.append(path)
        yield found
    finally:
        for folder in held:
            folder.close()


def _lock(path: Path) -> SpoolFolder | None:
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return SpoolFolder(path, descriptor)
