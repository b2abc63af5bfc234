"""How many threads torch computes with, for as long as it matters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads meanwhile.

    A matrix product is cut into as many pieces, and the last bits at the cuts depend on it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
