"""Connects to a Ray cluster, or starts a small Ray on this machine and stops it again.

A driver that is killed leaves the processes of its local Ray behind. Each start therefore notes its
folder, and the next one ends what belongs to a driver that is no more.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

import psutil

from recsys.errors import ServerError
from recsys.events.durable_files import make_directory, write_durably

OBJECT_STORE_BYTES = 200 * 1024**2
"""Nothing large goes through Ray's object store; this keeps a laptop's memory free."""
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Nothing preempts a laptop; on a cluster a lost node is a failed worker, started again.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # A report waits for the controller's next look, every 2 seconds by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A group of workers may start slowly where other work is going on; by default 60 seconds.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    # As nice as the command is: Ray's own 15 leaves workers next to nothing beside other work.
    "RAY_worker_niceness": "0",
    # Workers of a local Ray inherit this. Threads that wait for each other must sleep, not spin: on
    # a machine that has other work to do, spinning costs several times what it saves.
    "OMP_WAIT_POLICY": "passive",
}
_NOTE = "ray-*.json"
logger = logging.getLogger(__name__)


@contextmanager
def started(address: str | None, num_workers: int, notes: Path) -> Iterator[None]:
    """Have Ray inside; one that this process is already connected to is used and stays.

    Args:
        address: Of a cluster; None starts a local Ray without dashboard.
        num_workers: What the local one must have room for.
        notes: Folder that remembers local ones that run.

    Raises:
        ServerError: when Ray cannot be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # before ray is imported: it reads them then
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    local_dir: Path | None = None
    note: Path | None = None
    if address is None:
        end_orphans(notes)
        # A short path of its own: sockets have a length limit, and it is removed afterwards.
        local_dir = Path(tempfile.mkdtemp(prefix="ray-"))
        note = _write_note(notes, local_dir)
        options |= {
            "address": "local",
            "_node_ip_address": "127.0.0.1",  # nobody else's business
            "num_cpus": max(2, num_workers + 1),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": str(local_dir),
        }
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ServerError(
            f"Ray does not answer at {address or 'a local start'} ({error}); check RAY_ADDRESS, or "
            "unset it to train on this machine"
        ) from error
    try:
        with redirect_stdout(cast(TextIO, _WithoutRay(sys.stdout))):
            yield
    finally:
        ray.shutdown()
        if local_dir is not None:
            shutil.rmtree(local_dir, ignore_errors=True)
        if note is not None:
            note.unlink(missing_ok=True)


class _WithoutRay:
    """Standard output, which is for a command's result alone.

    Ray's own threads speak of lost workers on it: that goes to standard error.
    """

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout

    def write(self, text: str) -> int:
        is_ray = threading.current_thread().name.startswith("ray_")
        return (sys.stderr if is_ray else self._stdout).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout, name)


def end_orphans(notes: Path) -> int:
    """End what a killed driver's local Ray left running; give the number of processes."""
    ended = 0
    for path in sorted(notes.glob(_NOTE)):
        try:
            note = json.loads(path.read_bytes())
            driver, began, folder = int(note["driver"]), float(note["began"]), str(note["folder"])
        except (OSError, ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)
            continue
        if _is_same(driver, began):
            continue
        left = belonging_to(folder)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        ended += len(left)
        shutil.rmtree(folder, ignore_errors=True)
        path.unlink(missing_ok=True)
    if ended:
        logger.warning(
            "a killed run's Ray was still there and is ended", extra={"processes": ended}
        )
    return ended


def _write_note(notes: Path, folder: Path) -> Path:
    make_directory(notes)
    path = notes / f"{folder.name}.json"
    began = psutil.Process().create_time()
    text = json.dumps({"driver": os.getpid(), "began": began, "folder": str(folder)})
    write_durably(path, text.encode())
    return path


def _is_same(pid: int, began: float) -> bool:
    """Tell whether the process that wrote the note still runs, and no other has its number."""
    try:
        return abs(psutil.Process(pid).create_time() - began) < 1.0
    except psutil.Error:
        return False


def belonging_to(folder: str) -> list[psutil.Process]:
    """Give the processes of the local Ray in ``folder``.

    Servers name it on their command line; Ray's own Python processes rename themselves, but write
    their logs there.
    """
    return [process for process in psutil.process_iter() if _belongs(process, folder)]


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        if any(folder in argument for argument in process.cmdline()):
            return True
        is_ray = process.cmdline()[:1] and process.cmdline()[0].startswith("ray::")
        return bool(is_ray) and any(f.path.startswith(folder) for f in process.open_files())
    except psutil.Error:
        return False
