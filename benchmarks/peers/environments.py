"""Virtual environments of peers, made from their pinned requirements when first asked for."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from recsys.errors import ConfigurationError

_HERE = Path(__file__).parent


def python_of(peer: str, state_dir: Path) -> Path:
    """Give the interpreter of a peer's environment.

    Args:
        peer: A folder beside this file with a ``requirements.txt``.
        state_dir: Where environments are kept (``Settings.state_dir``).

    Raises:
        ConfigurationError: when the packages cannot be had.
    """
    requirements = _HERE / peer / "requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = state_dir / "peers" / f"{peer}-{digest}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    make = [uv, "venv", "-q", "-p", sys.executable] if uv else [sys.executable, "-m", "venv"]
    install = [uv, "pip", "install", "-q", "-p", str(python)] if uv else [
        str(python), "-m", "pip", "install", "-q",
    ]  # fmt: skip
    for command in ([*make, str(folder)], [*install, "-r", str(requirements)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigurationError(
                f"{peer}: wanted an environment with {requirements}, found: "
                f"{done.stderr.strip()[-500:]}"
            )
    (folder / "complete").touch()
    return python
