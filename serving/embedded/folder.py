"""The folder of server programs, shared by all clones on a machine.

An installation is built in a temporary folder beside its target and moved there in one step, under
a lock: whoever is killed half-way leaves nothing that looks installed, and two clones may install
at the same time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from recsys.errors import ServerError
from serving.embedded.machine import MEBIBYTE, require_disk

Report = Callable[[str], None]
"""Is told, in one short line, what is going on."""


def install(
    servers_dir: Path,
    name: str,
    build: Callable[[Path], None],
    *,
    wanted_mib: int,
    report: Report,
) -> Path:
    """Give ``servers_dir/name``, calling ``build(empty_folder)`` first where it is missing.

    Raises:
        ServerError: the disk is too full, the folder cannot be written, or ``build`` says so.
    """
    target = servers_dir / name
    if target.is_dir():
        return target
    require_disk(servers_dir, wanted_mib * MEBIBYTE, f"installing {name}")
    try:
        servers_dir.mkdir(parents=True, exist_ok=True)
        with (servers_dir / f".{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"waiting for another process that installs {name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if target.is_dir():
                return target
            for leftover in servers_dir.glob(f".{name}.*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            report(f"installing {name} in {servers_dir}")
            temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=servers_dir))
            try:
                build(temporary)
                temporary.chmod(0o755)
                os.replace(temporary, target)  # noqa: PTH105  one atomic step
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    except OSError as error:
        raise ServerError(
            f"installing {name} wanted to write in {servers_dir}, found: {error}; free some space, "
            "make the folder writable or set RECSYS_SERVERS_DIR to another"
        ) from error
    return target
