"""How long a core may take to wake: asked of the kernel, and read.

A core without work sleeps, and work that comes for it waits until it is back; on a guest of a
hypervisor, until the host has a processor for it again. ``/dev/cpu_dma_latency`` (Linux, "PM
Quality of Service") takes the longest such wait anybody can bear, in microseconds, and keeps it for
as long as the file is open: the kernel forgets it with us, however we end. 0 means that idle cores
look for work without sleeping.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import ConfigurationError

DEVICE = Path("/dev/cpu_dma_latency")
VARIABLE = "RECSYS_CPU_LATENCY_US"
_ANY_TIME_US = 2_000_000_000
"""The kernel's word for no wish."""


@contextmanager
def awake_within(latency_us: int | None, *, device: Path = DEVICE) -> Iterator[None]:
    """Ask for ``latency_us`` within the ``with`` block; ``None`` asks for nothing.

    Raises:
        ConfigurationError: when the kernel has no such file, or we may not write it.
    """
    if latency_us is None:
        yield
        return
    try:
        file = device.open("r+b", buffering=0)
    except OSError as error:
        raise ConfigurationError(
            f"{VARIABLE}={latency_us}: wanted to write {device}, found {error.strerror}; let this "
            "user write it (a udev rule), or set the machine and unset the variable"
        ) from error
    with file:
        file.write(struct.pack("i", latency_us))
        yield


def cores_wake_within_us(*, device: Path = DEVICE) -> int | None:
    """Give how long a core may take to wake, where somebody has asked for less than any time.

    None where nobody has, or the kernel does not tell us.
    """
    try:
        (asked,) = struct.unpack("i", device.read_bytes()[:4])
    except (OSError, struct.error):
        return None
    return int(asked) if asked < _ANY_TIME_US else None
