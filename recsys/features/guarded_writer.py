"""Writes hashes in Redis if they are still as they were, and only into the store one began with.

One script writes many hashes in one call. It refuses a hash whose version is not the one its state
was read at (``hashes.py``), which is what several workers of one entity need. And it writes nothing
at all when the store itself is another than at ``begin``, because then its versions and positions
speak of another past:

- the server was restarted or another took its place (its run differs): the last writes may
  be gone, and who goes on from memory would leave a gap that no version shows;
- the store was emptied, or computed anew by a backfill (its *epoch* differs, a random word in the
  progress hash);
- another worker has taken one of the partitions whose records are being written (``take``).

``StoreChangedError`` then says: forget everything, read the progress, go on from there.

The last is what versions cannot tell. A worker that slept may have read that there is no such hash;
once its user was forgotten there is none again, and its write would bring back what is gone. So who
takes a partition leaves a random word in the progress hash before it reads how far the partition
was told, and a write counts only while all words of its writer stand. Of the writes made from a
partition's records therefore only those of its last taker count, who has read all that came before;
it need not be known who Kafka thinks the owner is. Two that both believe to be it take it from each
other until one hears that it is not, and spoil nothing.

Of a cluster each node is guarded by itself, since a script sees one node only: it compares the run
of its server and a copy of the progress that lies there (``guard_nodes.py``). What is written to
several nodes is done node by node, and that is enough, because every hash is guarded alone: its
positions say what it was told, the words of a taker stand on all nodes before he reads anything,
and how far a partition is told is raised when all nodes have answered, on the copies first. Killed
in between, a worker leaves some hashes further than the progress; whoever comes next skips what
they know. A node that fails and loses its last writes loses them with its copy, which is behind
then, and ``begin`` takes the whole progress back to where it stood, in a new epoch. One that was
emptied has no copy, and one whose slots were dealt out anew guards other slots than the progress
says: both are a store to compute anew.

A cut connection or a time-out leaves it open whether the script ran. It is simply sent again: what
was written the first time has another version now and is refused, and whoever reads that state
again finds its records applied. Scripts are sent whole (1 KB beside some 100 KB of fields), so a
server that forgot them is no case of its own.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from recsys.errors import ServerError
from recsys.events.log import TopicPartition
from recsys.features import guard_scripts as scripts
from recsys.features.guarded_calls import StoreChangedError
from recsys.features.guarded_store import GuardedStore
from recsys.features.hashes import Write
from recsys.features.patience import give_up
from recsys.features.progress import owner_field
from recsys.features.redis.client import Sent
from recsys.features.redis.commands import pack
from recsys.features.redis.greeting import TIMEOUT_S
from recsys.features.script_calls import CHUNK_HASHES, Encoded, calls_of
from recsys.features.sent_writes import SentWrites
from recsys.telemetry import STREAM_REFUSED_WRITES

__all__ = ["GuardedWriter", "StoreChangedError"]

_HASHES_AT_ONCE = 16 * CHUNK_HASHES
"""Of each node, sent before the first reply is waited for; each call adds to the time-out."""
_NodeCall = tuple[int, Encoded]
"""On which node, and what its script is told."""


class GuardedWriter(GuardedStore):
    """Writes the hashes of one namespace (``FeatureWriter``). Not thread-safe."""

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        pause: Callable[[Exception], None] = give_up,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Connect lazily; see ``GuardedCalls``."""
        super().__init__(url, namespace, pause=pause, timeout_s=timeout_s)
        self._sent: SentWrites | None = None

    def begin(self) -> bool:
        """See ``GuardedStore.begin``; what is under way is not waited for."""
        self._drop()
        return super().begin()

    def take(self, partitions: Sequence[TopicPartition]) -> None:
        """Take partitions: what others still write that have taken them before is refused.

        Call it before reading how far they were told. Those that are ours are taken once more, if
        they still are: what we sent before and is still under way is refused, too.

        Raises:
            StoreChangedError: as ``write``, or when another takes them at this moment.
        """
        if not partitions:
            return
        names = [owner_field(at) for at in partitions]
        # What stands there is named, so that a taking that arrives twice and late takes nothing.
        asked = [name.encode() for name in names]
        stored = self._call(scripts.WORDS, [asked] * len(self._layout.keys))
        taken = {name: uuid.uuid4().hex for name in names}
        rest = {name: word for name, word in self._taken.items() if name not in taken}
        args: list[list[bytes]] = []
        for guard, words in zip(self._guards(rest), stored, strict=True):
            for name, word in zip(names, words, strict=True):
                before = self._taken.get(name, (word or b"").decode())
                guard += (name.encode(), before.encode(), taken[name].encode())
            args.append(guard)
        self._call(scripts.TAKE, args)
        self._taken = rest | taken

    def let_go(self, partitions: Sequence[TopicPartition]) -> None:
        """Write nothing more from these partitions' records; whoever takes them is welcome."""
        for at in partitions:
            self._taken.pop(owner_field(at), None)

    def write(self, writes: Sequence[Write]) -> list[bytes]:
        """See ``HashWriter.write``.

        Raises:
            StoreChangedError: when the store is another than at ``begin``, or a partition was
                taken by another; nothing after that point was written, but on other nodes.
            ServerError: when it cannot be written and ``pause`` has had enough.
        """
        refused: list[bytes] = []
        for at in range(0, len(writes), self._at_once):
            calls = self._calls(writes[at : at + self._at_once])
            refused += _refused(calls, self._exchange(self._commands(calls)))
        return refused

    def send(self, writes: Sequence[Write]) -> SentWrites:
        """See ``FeatureWriter.send``; of many writes the last few thousand are under way.

        Raises:
            StoreChangedError: as ``write``.
            ServerError: as ``write``.
        """
        first = (max(len(writes), 1) - 1) // self._at_once * self._at_once
        refused, rest = self.write(writes[:first]), writes[first:]
        calls = self._calls(rest)
        commands = self._commands(calls)
        self._drop()
        sent: Sent | None = None
        with contextlib.suppress(ServerError):  # ``again`` will tell
            keys = [self._layout.keys[node] for node, _ in commands]
            sent = self._client.send(keys, [command for _, command in commands])
        self._sent = SentWrites(
            sent,
            self._timeout_s * max(1, len(commands)),
            lambda replies: refused + _refused(calls, replies),
            lambda: refused + self.write(rest),
        )
        return self._sent

    def advance(self, numbers: Mapping[bytes, int]) -> None:
        """Raise numbers of the progress; one that is greater there already stays.

        Raises:
            StoreChangedError: as ``write``.
        """
        args: list[bytes] = []
        for name, value in numbers.items():
            args += (name, b"%d" % value)
        home, *copies = (guard + args for guard in self._guards())
        if copies:
            self._call(scripts.ADVANCE, copies, first=1)
        self._call(scripts.ADVANCE, [home])

    def set_progress(self, write: Write) -> None:
        """Set how far all is told, back or forth, by one who seized the store.

        Raises:
            StoreChangedError: as ``write``.
        """
        if self._is_cluster:
            # The copies first: until the progress itself is written, this is half a backfill.
            (_, home), *copies = self._look()
            self._copy({**home, **write.fields}, {n + 1: self._epoch for n in range(len(copies))})
        self.write([write])

    @property
    def _at_once(self) -> int:
        return _HASHES_AT_ONCE * len(self._layout.keys)

    def _drop(self) -> None:
        if self._sent is not None:
            self._sent.drop()

    def _calls(self, writes: Sequence[Write]) -> list[_NodeCall]:
        return [
            (node, call)
            for node, mine in self._by_node(writes)
            for at in range(0, len(mine), CHUNK_HASHES)
            for call in calls_of(mine[at : at + CHUNK_HASHES])
        ]

    def _commands(self, calls: Sequence[_NodeCall]) -> list[tuple[int, bytes]]:
        guards = self._guards()
        return [
            (node, self._write_command(node, guards[node], keys, args))
            for node, (keys, *args) in calls
        ]

    def _by_node(self, writes: Sequence[Write]) -> Iterable[tuple[int, Sequence[Write]]]:
        if self._layout.node_of_slot is None:
            return [(0, writes)]
        groups: dict[int, list[Write]] = {}
        for write in writes:
            groups.setdefault(self._layout.node_of(write.key), []).append(write)
        return groups.items()

    def _write_command(
        self, node: int, guard: list[bytes], keys: list[bytes], args: list[bytes]
    ) -> bytes:
        if self._layout.node_of_slot is not None:
            return self._command(scripts.WRITE_NODE, node, [*guard, *args, *keys])
        count = b"%d" % (1 + len(keys))
        return pack(b"EVAL", scripts.WRITE.encode(), count, self._home, *keys, *guard, *args)


def _refused(calls: Sequence[_NodeCall], replies: Sequence[list[int]]) -> list[bytes]:
    refused = [
        keys[place]
        for (_, (keys, *_)), places in zip(calls, replies, strict=True)
        for place in places
    ]
    if refused:
        STREAM_REFUSED_WRITES.inc(len(refused))
    return refused
