"""Where a comparison was measured: what every report of one says."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def surroundings() -> dict[str, object]:
    """Give processor, cores, load, Python and commit."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "commit": commit(),
    }


def commit() -> str:
    """Name the commit this is, ``+`` when files differ from it; empty outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*of: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(root), *of], capture_output=True, text=True)
        except OSError:  # there is no git
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--short") else "")


def processor() -> str:
    """Name the processor and those of its units that matter to arithmetic."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    units = [unit for unit in ("avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    return f"{names[0] if names else platform.processor()} ({', '.join(units) or 'no AVX-512'})"
