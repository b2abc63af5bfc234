"""Connects to a Ray cluster, or starts a small Ray on this machine and stops it again.

A driver that is killed leaves the processes of its local Ray behind: ``ray_folders.py`` ends them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import FrameType
from typing import Any, TextIO, cast

from recsys.errors import ServerError
from training.ray_folders import local_folder

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


@contextmanager
def started(address: str | None, num_workers: int) -> Iterator[None]:
    """Have Ray inside; one that this process is already connected to is used and stays.

    Signals are handled as they were before, not as Ray would: what a handler raises (an exit with
    a code) leaves the block as it was raised, after Ray was stopped.

    Args:
        address: Of a cluster; None starts a local Ray without dashboard.
        num_workers: What the local one must have room for.

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
    with ExitStack() as stack:
        if address is None:
            options |= {
                "address": "local",
                "_node_ip_address": "127.0.0.1",  # nobody else's business
                "num_cpus": max(2, num_workers + 1),
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_temp_dir": str(stack.enter_context(local_folder())),
            }
        else:
            options["address"] = address
        signals = _Signals()
        try:
            _connect(options, signals)
            with redirect_stdout(cast(TextIO, _WithoutRay(sys.stdout))):
                yield
        except BaseException:
            if signals.raised is not None:
                raise signals.raised from None
            raise
        finally:
            ray.shutdown(wait_for_processes=True)
            signals.put_back()


def _connect(options: dict[str, Any], signals: _Signals) -> None:
    import ray

    try:
        ray.init(**options)
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # Ray's own handler, in force until ``init`` is over
            signals.handle(signal.SIGTERM, None)
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "a local start" if options["address"] == "local" else options["address"]
        raise ServerError(
            f"Ray does not answer at {where} ({error}); check RAY_ADDRESS, or unset it to train "
            "on this machine"
        ) from error
    signals.take_back()


class _Signals:
    """The handlers that were in force before Ray's.

    ``ray.init`` replaces that of SIGTERM, and its C++ part prints a stack when one comes; a call
    that waits for Ray turns whatever a handler raises into an exit with a code of Ray's.
    """

    def __init__(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        self._before = {n: h for n in numbers if (h := signal.getsignal(n)) is not None}
        self.raised: BaseException | None = None
        """What a handler raised meanwhile."""

    def take_back(self) -> None:
        """Have signals handled as before, and keep what is raised."""
        for number, before in self._before.items():
            signal.signal(number, self.handle if callable(before) else before)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Do what was done before Ray."""
        before = self._before.get(signal.Signals(number))
        if not callable(before):
            return
        try:
            before(number, frame)
        except BaseException as error:
            self.raised = error
            raise

    def put_back(self) -> None:
        """Leave things as they were found."""
        for number, before in self._before.items():
            signal.signal(number, before)


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
