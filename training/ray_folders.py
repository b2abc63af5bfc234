"""Folders of the local Rays of a user, and an end for what a killed driver leaves in one.

::

    <tmp>/recsys-ray-<uid>/.lock          held for a moment by whoever adds or removes a Ray
    <tmp>/recsys-ray-<uid>/4f1c2a/        sockets and logs of one local Ray
    <tmp>/recsys-ray-<uid>/4f1c2a.driver  locked by its driver as long as that lives

The kernel lets go of a lock (flock) however its holder ends, and gives its number to no other, so a
note that can be locked is an orphan's. A keeper (``ray_keeper.py``) waits for that and ends at once
what is left of the Ray; the next start on this machine does the same, should the keeper have been
killed as well. All notes lie here, whichever state folder a run works on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from recsys.errors import ConfigurationError

_NOTE = ".driver"
_END_S = 5.0
"""How long a process that was sent SIGKILL may take to be gone."""
logger = logging.getLogger(__name__)


def default_root() -> Path:
    """Give where this user's local Rays lie: short, because sockets have a length limit."""
    return Path(tempfile.gettempdir()) / f"recsys-ray-{os.getuid()}"


@contextmanager
def local_folder(root: Path | None = None) -> Iterator[Path]:
    """Give a new folder for a local Ray; what is left of it when the block ends is removed.

    Args:
        root: Where it is made; None: ``default_root``.

    Raises:
        ConfigurationError: when ``root`` belongs to somebody else.
    """
    root = _ours(root or default_root())
    end_orphans(root)
    name = secrets.token_hex(3)
    folder, note = root / name, root / (name + _NOTE)
    with _alone(root):
        held = note.open("x")
        fcntl.flock(held, fcntl.LOCK_EX)
        folder.mkdir()
    held.write(f"process {os.getpid()}\n")
    held.flush()
    keeper = subprocess.Popen(
        [sys.executable, "-m", "training.ray_keeper", str(root), name],
        cwd=Path(__file__).resolve().parents[1], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield folder
    finally:
        with _alone(root):
            _end(folder, note)
        held.close()
        with suppress(subprocess.TimeoutExpired):
            keeper.wait(timeout=_END_S)


def end_orphans(root: Path | None = None) -> int:
    """End what killed drivers' local Rays left running; give the number of processes."""
    root = root or default_root()
    if not root.is_dir():
        return 0
    ended = 0
    with _alone(root):
        for note in sorted(root.glob(f"*{_NOTE}")):
            with note.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its driver lives
                ended += _end(note.with_suffix(""), note)
    if ended:
        logger.warning(
            "a killed run's Ray was still there and is ended", extra={"processes": ended}
        )
    return ended


def await_driver(root: Path, name: str) -> None:
    """Wait until the driver of ``name`` is gone, and end what it left."""
    note = root / (name + _NOTE)
    with suppress(FileNotFoundError), note.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with _alone(root):
            _end(root / name, note)


def belonging_to(folder: str | Path) -> list[psutil.Process]:
    """Give the processes of the local Ray in ``folder``.

    Servers name it on their command line; Ray's own Python processes rename themselves, but write
    their logs there.
    """
    return [process for process in psutil.process_iter() if _belongs(process, str(folder))]


def _end(folder: Path, note: Path) -> int:
    """Kill what runs in ``folder`` and remove it; the note goes last, should we be killed too."""
    left = belonging_to(folder) if folder.is_dir() else []
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_END_S)
    shutil.rmtree(folder, ignore_errors=True)
    note.unlink(missing_ok=True)
    return len(left)


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        command = process.cmdline()
        if any(folder in argument for argument in command):
            return True
        is_ray = bool(command) and command[0].startswith("ray::")
        return is_ray and any(f.path.startswith(folder) for f in process.open_files())
    except psutil.Error:
        return False


def _ours(root: Path) -> Path:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = root.lstat().st_uid
    if owner != os.getuid() or root.is_symlink():
        raise ConfigurationError(
            f"wanted a folder of ours for Ray at {root}, found one of user {owner}; remove it, or "
            "set TMPDIR to another folder"
        )
    return root


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    with (root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
