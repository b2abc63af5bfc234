"""Freed memory stays with the process: a repeated computation has no page mapped anew."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import ctypes, resource, sys, torch
from recsys.inference.allocation import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert keep_freed_memory()
else:  # as it is until the C library has seen such sizes freed: it may have, by now
    M_MMAP_THRESHOLD = -3
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 128 * 1024)
def layer():
    values = torch.ones(8000, 64)
    for _ in range(10):
        values = values + 1.0  # 2 MB each, as between two layers of a batch of 16
for _ in range(5):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(way: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, way], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_freed_memory_is_not_mapped_anew() -> None:
    kept = _page_faults("kept")
    assert kept < 2_000  # 500 tensors of 500 pages
    assert kept * 5 < _page_faults("given back")
