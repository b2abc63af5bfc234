"""The online store as bytes: hashes with fields, read many at once, written under a lease.

Everything that knows what the bytes mean stands above this seam, so that the stream and the
readers are the same code over Redis (``redis_hashes.py``) and over a dictionary (here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Wanted = Sequence[tuple[bytes, Sequence[bytes]]]
"""``(key, fields)`` of each hash to read."""
Found = list[list[bytes | None]]
"""Aligned with what was wanted; ``None`` where there is no such hash or field."""
Write = tuple[bytes, dict[bytes, bytes]]
"""``(key, fields)``: fields to set in one hash, all of them or none."""


class HashReader(Protocol):
    """Reads hashes in one round trip."""

    def read(self, wanted: Wanted) -> Found:
        """Give the fields."""


class AsyncHashReader(Protocol):
    """Reads hashes in one round trip, on an event loop."""

    async def read(self, wanted: Wanted) -> Found:
        """Give the fields."""


class HashWriter(Protocol):
    """Writes hashes while it holds the lease."""

    def write(self, writes: Sequence[Write]) -> None:
        """Set the fields of each hash in one step, hashes in order.

        Raises:
            LeaseLostError: when another writer took over; nothing after that point was written.
        """


@dataclass
class MemoryHashes:
    """Hashes in the memory of one process, for unit tests and dry runs."""

    content: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)

    def read(self, wanted: Wanted) -> Found:
        """Give the fields."""
        empty: Mapping[bytes, bytes] = {}
        return [
            [self.content.get(key, empty).get(name) for name in fields] for key, fields in wanted
        ]

    def write(self, writes: Sequence[Write]) -> None:
        """Set the fields of each hash."""
        for key, fields in writes:
            self.content.setdefault(key, {}).update(fields)
