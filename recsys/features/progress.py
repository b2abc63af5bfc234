"""How far the stream has got, as it lies in the online store beside the features.

One hash, ``{namespace}:features:progress``, written last in every batch: for each partition our
position and the number we give to the log's offset 0, the layout of the state, and whether a
backfill is under way. Whoever reads it finds everything before the positions applied.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recsys.errors import ConfigurationError
from recsys.events.log import TopicPartition
from recsys.features.hashes import ANY_VERSION, Found, HashReader, Wanted, Write

_LAYOUT = b"layout"
_BACKFILL = b"backfill"


def progress_key(namespace: str) -> bytes:
    """Give the Redis key."""
    return f"{namespace}:features:progress".encode()


def wanted_layout(namespace: str) -> Wanted:
    """Give what to read for ``stored_layout``."""
    return [(progress_key(namespace), [_LAYOUT])]


def stored_layout(found: Found) -> str | None:
    """Give the layout the store's features have; ``None`` when none were ever written."""
    layout = found[0][0]
    return None if layout is None else layout.decode()


class StoredProgress:
    """Reads the progress of one namespace and says how it is written."""

    def __init__(self, store: HashReader, namespace: str) -> None:
        self._store = store
        self._key = progress_key(namespace)

    def of(self, at: TopicPartition) -> tuple[int | None, int]:
        """Give our next position (``None``: never began) and our number for the log's offset 0.

        Their difference is the offset of the next record to apply.
        """
        ((position, base),) = self._store.read([(self._key, [_position(at), _base(at)])])
        return (int(position) if position else None), int(base or 0)

    def check(self, layout: str) -> None:
        """See that the store holds whole features of these declarations, or none.

        Raises:
            ConfigurationError: when it does not.
        """
        ((stored, backfill),) = self._store.read([(self._key, [_LAYOUT, _BACKFILL])])
        if backfill:
            raise ConfigurationError(
                "wanted whole features, found half a backfill; run `recsys backfill` again"
            )
        if stored is not None and stored.decode() != layout:
            raise ConfigurationError(
                f"wanted features of the declared layout {layout}, found {stored.decode()} in the "
                "store: feature_repo changed; run `recsys backfill` to compute them anew"
            )

    def fields(
        self,
        positions: Mapping[TopicPartition, int],
        bases: Mapping[TopicPartition, int],
        layout: str,
        *,
        in_backfill: bool = False,
    ) -> Write:
        """Give the write that says how far all writes before it have got."""
        fields = {_LAYOUT: layout.encode(), _BACKFILL: b"1" if in_backfill else b""}
        for at, position in positions.items():
            fields[_position(at)] = b"%d" % position
            fields[_base(at)] = b"%d" % bases[at]
        return Write(self._key, fields, ANY_VERSION)


def fields_of_others(
    positions: Collection[TopicPartition], stored: Collection[bytes]
) -> list[bytes]:
    """Give those of the ``stored`` fields that speak of other partitions than ``positions``."""
    kept = {_LAYOUT, _BACKFILL}
    kept |= {name(at) for at in positions for name in (_position, _base)}
    return sorted(set(stored) - kept)


def _position(at: TopicPartition) -> bytes:
    return f"{at.topic}/{at.partition}".encode()


def _base(at: TopicPartition) -> bytes:
    return f"base:{at.topic}/{at.partition}".encode()
