"""Memory of a join in pages of the usual size.

Arrow's own allocator (mimalloc) asks the kernel for huge pages. A join holds each of its large
tables for a moment, and then clearing their pages takes more than they save: at a million labels
a quarter of the CPU and of the time (single runs, docs/peers.md).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

_lock = threading.Lock()
_within = 0
_before: pa.MemoryPool | None = None


@contextmanager
def plain_pages() -> Iterator[None]:
    """Have Arrow allocate with the system's ``malloc`` within the ``with`` block.

    For the whole process, as Arrow has it, until the last of those that are within at once has
    left: what other threads allocate meanwhile comes from there too. Every buffer goes back to
    where it came from.
    """
    global _within, _before
    with _lock:
        _within += 1
        if _within == 1:
            _before = pa.default_memory_pool()
            pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                pa.set_memory_pool(_before)
