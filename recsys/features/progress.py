"""How far the stream has got, as it lies in the online store beside the features.

One hash, ``{namespace}:features:progress``: for each partition our position and the number we give
to the log's offset 0, the layout (the states kept up to date), the epoch (``guarded_writer.py``),
whether a backfill of everything is under way, and who took a partition last (a random word:
``GuardedWriter.take``). Whoever reads a position finds everything before
it applied. Positions only rise, whoever writes them, but for a backfill, which begins a new epoch.

A state a backfill added is behind at first: ``{state}@{topic}/{partition}`` says how far it is
told. A worker reads the log from there (the other states skip what they were told), and the field
goes when it meets the partition's position. A state with no such field is live.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recsys.errors import ConfigurationError
from recsys.events.log import TopicPartition
from recsys.features.hashes import ANY_VERSION, Found, HashReader, Wanted, Write

LAYOUT_FIELD = b"layout"
BACKFILL_FIELD = b"backfill"
EPOCH_FIELD = b"epoch"


class HalfBackfillError(ConfigurationError):
    """A backfill is writing, or died writing: the store is half old, half new."""


def progress_key(namespace: str) -> bytes:
    """Give the Redis key."""
    return f"{namespace}:features:progress".encode()


def wanted_layout(namespace: str) -> Wanted:
    """Give what to read for ``stored_layout``."""
    return [(progress_key(namespace), [LAYOUT_FIELD])]


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

    def kept(self, layout: str) -> frozenset[str]:
        """Give the states to keep up to date, of those ``layout`` declares.

        States the store does not hold yet are left out: a backfill brings them.

        Raises:
            HalfBackfillError: when a backfill of everything is under way.
            ConfigurationError: when the store holds a state that is not declared here: it would
                fall behind unseen.
        """
        ((stored, backfill),) = self._store.read([(self._key, [LAYOUT_FIELD, BACKFILL_FIELD])])
        if backfill:
            raise HalfBackfillError(
                "wanted whole features, found half a backfill; run `recsys backfill` again"
            )
        declared = frozenset(layout.split("-"))
        if stored is None:
            return declared
        held = frozenset(stored.decode().split("-"))
        if not held <= declared:
            raise ConfigurationError(
                f"wanted features of the declared layout {layout}, found {stored.decode()} in the "
                f"store, of which nothing here declares {', '.join(sorted(held - declared))}: "
                "copy <state_dir>/plans/ from the machine feature_repo was changed on, or run "
                "`recsys backfill` to compute the declared ones anew"
            )
        return held

    def behind(self, at: TopicPartition, states: Collection[str]) -> dict[bytes, int]:
        """Give the states told less of a partition than its position says, and their positions.

        By field of the progress, for ``GuardedWriter.advance``.
        """
        names = [state_position(state, at) for state in sorted(states)]
        (found,) = self._store.read([(self._key, names)])
        return {name: int(value) for name, value in zip(names, found, strict=True) if value}

    def fields(
        self,
        positions: Mapping[TopicPartition, int],
        bases: Mapping[TopicPartition, int],
        layout: str,
        *,
        in_backfill: bool = False,
    ) -> Write:
        """Give the write that sets how far all writes before it have got, be it back or forth."""
        fields = {LAYOUT_FIELD: layout.encode(), BACKFILL_FIELD: b"1" if in_backfill else b""}
        for name, number in numbers_of(positions, bases).items():
            fields[name] = b"%d" % number
        return Write(self._key, fields, ANY_VERSION)


def numbers_of(
    positions: Mapping[TopicPartition, int], bases: Mapping[TopicPartition, int]
) -> dict[bytes, int]:
    """Give the fields of positions and bases, for ``GuardedWriter.advance``."""
    numbers: dict[bytes, int] = {}
    for at, position in positions.items():
        numbers[_position(at)] = position
        numbers[_base(at)] = bases[at]
    return numbers


def fields_of_others(
    positions: Collection[TopicPartition], stored: Collection[bytes]
) -> list[bytes]:
    """Give those of the ``stored`` fields that speak of other partitions than ``positions``."""
    kept = {name(at) for at in positions for name in (_position, _base)}
    return sorted(name for name in set(stored) - kept if b"/" in name)


def catching_up(fields: Collection[bytes]) -> set[str]:
    """Give the states that are behind in some partition, from the fields of the progress."""
    return {name.partition(b"@")[0].decode() for name in fields if b"@" in name}


def state_position(state: str, at: TopicPartition) -> bytes:
    """Give the field that says how far a state is told, while it is behind."""
    return f"{state}@{at.topic}/{at.partition}".encode()


def owner_field(at: TopicPartition) -> str:
    """Give the field that says who took a partition last."""
    return f"owner:{at.topic}:{at.partition}"


def _position(at: TopicPartition) -> bytes:
    return f"{at.topic}/{at.partition}".encode()


def _base(at: TopicPartition) -> bytes:
    return f"base:{at.topic}/{at.partition}".encode()
