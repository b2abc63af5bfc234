"""The online store as bytes: hashes with fields, read many at once, written if still as they were.

Every hash the stream writes counts its writes in the field ``VERSION_FIELD``. A write names the
version its state was read at and is refused when the hash has another: somebody else wrote it, and
the state must be read again. So any number of processes may write the same hash, and one that slept
while others went on changes nothing.

Everything that knows what the bytes mean stands above this seam, so that the stream and the
readers are the same code over Redis (``redis_hashes.py``) and over a dictionary (here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from recsys.events.log import TopicPartition

Wanted = Sequence[tuple[bytes, Sequence[bytes]]]
"""``(key, fields)`` of each hash to read."""
Found = list[list[bytes | None]]
"""Aligned with what was wanted; ``None`` where there is no such hash or field."""
VERSION_FIELD = b"~w"
"""How often a hash was written, in decimal digits."""
ANY_VERSION = -1
"""As ``Write.version``: write whatever is there. For one who keeps others out by other means."""


class Write(NamedTuple):
    """What to do to one hash, all of it or nothing."""

    key: bytes
    fields: Mapping[bytes, bytes]
    """To set; the version is not among them."""
    version: int
    """What ``VERSION_FIELD`` was when the state was read, 0 for no such hash."""
    remove: bool = False
    """Delete the hash instead."""


def version_of(loaded: bytes | None) -> int:
    """Decode ``VERSION_FIELD``."""
    return int(loaded) if loaded else 0


class HashReader(Protocol):
    """Reads hashes in one round trip."""

    def read(self, wanted: Wanted) -> Found:
        """Give the fields."""


class KeyFinder(Protocol):
    """Finds hashes by their names; looks at every key of the store."""

    def ending(self, suffix: bytes) -> list[bytes]:
        """Give the names that end so."""


class AsyncHashReader(Protocol):
    """Reads hashes in one round trip, on an event loop."""

    async def read(self, wanted: Wanted) -> Found:
        """Give the fields."""


class HashWriter(Protocol):
    """Writes hashes that are still as they were."""

    def write(self, writes: Sequence[Write]) -> list[bytes]:
        """Do each write in one step, in order; gives the keys refused for their version.

        What a key that is refused had to be told is to be made again from what is stored now.

        Raises:
            StoreChangedError: when another took over; nothing after that point was written.
        """


class UnderWay(Protocol):
    """Writes that were sent."""

    def refused(self) -> list[bytes]:
        """Wait for them; gives and raises what ``HashWriter.write`` does."""


class FeatureWriter(HashWriter, Protocol):
    """Writes the features of one namespace, and how far they have got, into one store."""

    def send(self, writes: Sequence[Write]) -> UnderWay:
        """Begin to write as ``write`` does, and go on with something else.

        One call is under way at a time: the next drops what was not waited for. Until it was
        waited for, nothing is known of it, an error not even.
        """

    def begin(self) -> bool:
        """Take note of the store as it is; False when it holds no features of the namespace."""

    def found(self, layout: str) -> None:
        """Begin an empty store."""

    def take(self, partitions: Sequence[TopicPartition]) -> None:
        """Refuse what others write of these partitions' records from now on.

        Raises:
            StoreChangedError: as ``advance``.
        """

    def let_go(self, partitions: Sequence[TopicPartition]) -> None:
        """Have others take these partitions."""

    def advance(self, numbers: Mapping[bytes, int]) -> None:
        """Raise numbers of the progress; one that is greater there already stays.

        Raises:
            StoreChangedError: when the store is another than at ``begin`` or another took one of
                our partitions, even for no numbers.
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

    def ending(self, suffix: bytes) -> list[bytes]:
        """Give the names that end so."""
        return [key for key in self.content if key.endswith(suffix)]

    def write(self, writes: Sequence[Write]) -> list[bytes]:
        """Do each write; gives the keys refused for their version."""
        refused = []
        for key, fields, version, remove in writes:
            stored = version_of(self.content.get(key, {}).get(VERSION_FIELD))
            if version not in (stored, ANY_VERSION):
                refused.append(key)
            elif remove:
                self.content.pop(key, None)
            else:
                own = self.content.setdefault(key, {})
                own.update(fields)
                own[VERSION_FIELD] = b"%d" % (stored + 1)
        return refused
