"""What the machine can do at best, and what it is called.

Peaks are the maker's where the device is known, dense and without sparsity; what a large matrix
product and a large copy reach here stands beside them.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.machine import commit, processor

PEAKS: dict[str, tuple[float, float, float]] = {
    # part of the device's name: TFLOP/s in bf16, TFLOP/s in float32 (TF32 units), GB/s of memory
    "H200": (989.0, 494.0, 4800.0),
    "H100 PCIe": (756.0, 378.0, 2000.0),
    "H100 NVL": (835.0, 417.0, 3900.0),
    "H100": (989.0, 494.0, 3350.0),
    "B200": (2250.0, 1125.0, 8000.0),
    "GH200": (989.0, 494.0, 4000.0),
    "A100-SXM4-80GB": (312.0, 156.0, 2039.0),
    "A100": (312.0, 156.0, 1555.0),
    "A10G": (70.0, 35.0, 600.0),
    "L40S": (362.0, 183.0, 864.0),
    "L4": (121.0, 60.0, 300.0),
    "RTX 4090": (165.0, 82.6, 1008.0),
}
"""From the makers' data sheets. The first name that is part of the device's counts."""


def peak_of(name: str) -> tuple[float, float, float] | None:
    """Give the row of ``PEAKS`` for a device's name; None when it is not there."""
    found = [key for key in PEAKS if key in name]
    return PEAKS[max(found, key=len)] if found else None


def machine(device: torch.device, *, threads: int) -> dict[str, Any]:
    """Say what this runs on, and what it reaches.

    Returns:
        Names and versions; ``peak_tflops`` by type and ``memory_gb_s``: of the maker where known
        (``peak_source``), else as measured; ``measured_tflops`` and ``measured_gb_s``.
    """
    measured = {
        kind: round(_matmul_tflops(device, dtype), 2)
        for kind, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
    }
    bandwidth = round(_copy_gb_s(device), 1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    known = peak_of(name) if device.type == "cuda" else None
    return {
        "device": name,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "peak_source": "maker" if known else "measured",
        "peak_tflops": {"bfloat16": known[0], "float32": known[1]} if known else measured,
        "memory_gb_s": known[2] if known else bandwidth,
        "measured_tflops": measured,
        "measured_gb_s": bandwidth,
    }


def _matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    size = 8192 if device.type == "cuda" else 1024
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _best_seconds(lambda: left @ right, device) / 1e12


def _copy_gb_s(device: torch.device) -> float:
    count = 2**30 if device.type == "cuda" else 2**26
    source = torch.ones(count // 4, device=device)
    target = torch.empty_like(source)
    return 2 * count / _best_seconds(lambda: target.copy_(source), device) / 1e9


def _best_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Time five goes, each of about a tenth of a second on what is timed here; give the best."""
    run()
    settle(device)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(5):
            run()
        settle(device)
        best = min(best, (time.perf_counter() - begin) / 5)
    return best


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
