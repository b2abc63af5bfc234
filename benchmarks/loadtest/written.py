"""What every result says of where it was measured, and how results reach the disk."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def this_machine() -> dict[str, str]:
    """Name this machine's kind."""
    return {
        "cores": str(os.cpu_count()),
        "system": f"{platform.machine()} {platform.system()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Give the versions of what sends."""
    return {name: version(name) for name in ("recsys", "uvloop", "httptools", "numpy")}


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: what stood there before is whole until then."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)
