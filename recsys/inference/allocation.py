"""Memory that a computation gave back stays with the process, for the next one.

Each layer of a batch makes tensors of a few MiB and drops them. glibc takes such from the kernel
and gives them back each time, so every layer begins by having its pages mapped and zeroed anew: a
fifth of the CPU time of a batch of 16 users, two fifths of one of 32 (docs/load.md).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 << 20
"""glibc allows no more: larger ones (tables, when a bundle is loaded) go straight to the kernel."""
_KEPT_IN_ALL = 256 << 20
"""Free memory at the end of the heap up to here is not given back: several batches' worth."""


def keep_freed_memory() -> bool:
    """Tell the allocator; gives whether it understood (another than glibc's does not)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT))
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_IN_ALL)) and kept
