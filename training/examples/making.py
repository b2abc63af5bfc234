"""Who makes the parts of a table: this process, one after the other. ``ray_data.py`` is the other.

A maker is told by a file, not by an object, so that any process can be one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from training.examples.shards import Shard

MakePart = Callable[[Path, int], Shard]
"""Makes one part of what a task file says."""


class MakeParts(Protocol):
    """Makes parts."""

    def __call__(self, make: MakePart, task_file: Path, parts: Sequence[int]) -> None:
        """Make each part; they are on disk when this returns.

        Raises:
            InputError: when the data cannot be learned from.
        """


def make_here(make: MakePart, task_file: Path, parts: Sequence[int]) -> None:
    """Make one part after the other."""
    for part in parts:
        make(task_file, part)
