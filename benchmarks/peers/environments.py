"""Virtual environments of peers, made from their pinned requirements when first asked for.

A folder's ``requirements.txt`` with hashes is a whole lock, made from ``requirements.in`` (which
says how): each file is checked and nothing is resolved anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from recsys.errors import ConfigurationError

_HERE = Path(__file__).parent
TORCH_INDEX = "RECSYS_TORCH_INDEX"
"""As for ``make setup``: an index, or a folder, with a build of torch to take instead."""


def python_of(peer: str, state_dir: Path) -> Path:
    """Give the interpreter of a peer's environment.

    Args:
        peer: A folder beside this file with a ``requirements.txt``.
        state_dir: Where environments are kept (``Settings.state_dir``).

    Raises:
        ConfigurationError: when the packages cannot be had.
    """
    requirements = _HERE / peer / "requirements.txt"
    index = os.environ.get(TORCH_INDEX, "")
    folder = folder_of(peer, state_dir)
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    make = [uv, "venv", "-q", "-p", sys.executable] if uv else [sys.executable, "-m", "venv"]
    install = [uv, "pip", "install", "-q", "-p", str(python)] if uv else [
        str(python), "-m", "pip", "install", "-q",
    ]  # fmt: skip
    lock = requirements.read_text()
    commands = [[*make, str(folder)]]
    if "--hash=" not in lock:
        commands.append([*install, "-r", str(requirements)])
    else:
        wanted = folder.with_suffix(".txt")
        wanted.write_text(without_torch(lock) if index else lock)
        commands.append([*install, "--no-deps", "--require-hashes", "-r", str(wanted)])
        if index:
            commands.append([*install, "--no-deps", *_from(index, uv=uv), torch_of(lock)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip()[-500:]
            _failure(folder).write_text(reason)
            raise ConfigurationError(
                f"{peer}: wanted an environment with {requirements}, found: {reason}"
            )
    (folder / "complete").touch()
    _failure(folder).unlink(missing_ok=True)
    return python


def folder_of(peer: str, state_dir: Path) -> Path:
    """Give where a peer's environment is or would be; another lock is another folder."""
    requirements = _HERE / peer / "requirements.txt"
    index = os.environ.get(TORCH_INDEX, "")
    digest = hashlib.sha256(requirements.read_bytes() + index.encode()).hexdigest()[:12]
    return (state_dir / "peers" / f"{peer}-{digest}").resolve()


def state_of(peer: str, state_dir: Path) -> str:
    """Say ``built``, ``not built``, or ``failed: `` and why the last attempt did."""
    folder = folder_of(peer, state_dir)
    if (folder / "complete").exists():
        return "built"
    failure = _failure(folder)
    return f"failed: {failure.read_text()}" if failure.exists() else "not built"


def pinned(lock: Path, distribution: str) -> str:
    """Give the version of a distribution in a lock; names are compared as packagers do.

    Raises:
        ConfigurationError: when the lock pins none.
    """
    name = re.sub(r"[-_.]+", "[-_.]+", distribution)
    found = re.search(rf"(?mi)^{name}(?:\[[^\]]*\])?==([^\s;\\]+)", lock.read_text())
    if found is None:
        raise ConfigurationError(f"{lock}: wanted a pinned {distribution}, found none")
    return found[1]


def _failure(folder: Path) -> Path:
    return folder.with_name(folder.name + ".failed")


def without_torch(lock: str) -> str:
    """Leave torch and its CUDA libraries out of a lock (as ``requirements/setup.sh`` does)."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    return "".join(b for b in blocks if not re.match(r"(torch|triton|nvidia-.*?|cuda-.*?)==", b))


def torch_of(lock: str) -> str:
    """Give the pinned torch of a lock, ``torch==2.13.0``."""
    found = re.search(r"(?m)^torch==[^\s;\\]+", lock)
    if found is None:
        raise ConfigurationError("wanted a pinned torch in the lock, found none")
    return found.group()


def _from(index: str, *, uv: str | None) -> list[str]:
    if Path(index).is_dir():
        return ["--no-index", "--find-links", index]
    return ["--default-index" if uv else "--index-url", index]
