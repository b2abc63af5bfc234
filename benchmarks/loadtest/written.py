"""What every result says of where it was measured, and how results reach the disk."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from recsys.wakefulness import cores_wake_within_us


def this_machine() -> dict[str, str]:
    """Name this machine's kind."""
    wake_us = cores_wake_within_us()
    return {
        "cores": str(os.cpu_count()),
        "system": f"{platform.machine()} {platform.system()}",
        "python": platform.python_version(),
        **({"cores wake within": f"{wake_us} us"} if wake_us is not None else {}),
    }


def versions() -> dict[str, str]:
    """Give the versions of what sends."""
    return {name: version(name) for name in ("recsys", "uvloop", "httptools", "numpy")}


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: what stood there before is whole until then."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)


def hand_over(
    encoded: bytes, page: Callable[[], str], *, output: Path | None, html: Path | None
) -> None:
    """Give a result to standard output, and to the files that were asked for."""
    if not (output and sys.stdout.isatty()):  # a person who has the file wants to see the end
        sys.stdout.write(encoded.decode() + "\n")  # first: a full disk does not lose it
    if output:
        write_whole(output, encoded + b"\n")
    if html:
        write_whole(html, page().encode())
