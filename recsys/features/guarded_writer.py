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
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import hiredis
import msgspec

from recsys.errors import RecsysError, ServerError
from recsys.events.log import TopicPartition
from recsys.features import guard_scripts as scripts
from recsys.features.guard_nodes import Layout, copy_keys, layout_of, lowered
from recsys.features.hashes import Write
from recsys.features.patience import give_up, is_passing
from recsys.features.progress import (
    BACKFILL_FIELD,
    EPOCH_FIELD,
    LAYOUT_FIELD,
    owner_field,
    progress_key,
)
from recsys.features.redis.client import TIMEOUT_S, RedisClient, Sent
from recsys.features.redis.commands import pack
from recsys.features.redis.replies import ErrorReply
from recsys.features.script_calls import CHUNK_HASHES, Encoded, calls_of
from recsys.features.sent_writes import SentWrites
from recsys.telemetry import STREAM_REFUSED_WRITES

_HASHES_AT_ONCE = 16 * CHUNK_HASHES
"""Of each node, sent before the first reply is waited for; each call adds to the time-out."""
_NodeCall = tuple[int, Encoded]
"""On which node, and what its script is told."""
_SHAPE, _FORMER, _ANEW, _WHOLE = b"shape", b"former", b"anew", b"whole"
"""Of a cluster, in the progress: the layout of its slots; the epoch before this one; whether the
copies may be made from nothing; the epoch all copies are of."""
_MAX_SETTLINGS = 20
"""Of a store that others begin at the same time."""
_ELSEWHERE = "non local key"
_encoder = msgspec.msgpack.Encoder()


class StoreChangedError(RecsysError):
    """The online store is not the one this run began with; forget it and begin again."""


class GuardedWriter:
    """Writes the hashes of one namespace (``HashWriter``). Not thread-safe."""

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        pause: Callable[[Exception], None] = give_up,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Connect lazily.

        Args:
            url: Of a server or a cluster (``redis/address.py``).
            namespace: Whose progress guards the writes.
            pause: Called before a command is tried again because the store was full, read-only,
                slow or away; ends the trying by raising (``patience.py``).
            timeout_s: Longest wait for an answer.

        Raises:
            ConfigurationError: when the URL is none.
        """
        self._home = progress_key(namespace)
        self._pause = pause
        self._timeout_s = timeout_s
        self._client = RedisClient(url, timeout_s=timeout_s)
        self._layout = Layout((self._home,), None, b"")
        self._runs = [b""]
        self._seen = self._epoch = b""
        self._taken: dict[str, str] = {}
        self._sent: SentWrites | None = None

    @property
    def _is_cluster(self) -> bool:
        return self._client.address.is_cluster

    def begin(self) -> bool:
        """Take note of the store as it is now; False when it holds no features of this namespace.

        Call it before reading anything that later writes are made from. No partition is taken.
        """
        self._drop()
        self._taken = {}
        problem: Exception | None = None
        for _ in range(_MAX_SETTLINGS):
            try:
                self._layout = self._located()
                whole = self._settled(self._look())
            except StoreChangedError as error:  # by another who begins, or a node that fails
                problem = error
                continue
            if whole is not None:
                return whole
        raise ServerError(f"wanted the nodes of the store to agree, found: {problem}")

    @property
    def epoch(self) -> str:
        """Name of the store's present life, as of ``begin``; empty when there is none."""
        return self._epoch.decode()

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

    def found(self, layout: str) -> None:
        """Begin an empty store, unless another process just did, and take note of it."""
        if self.begin():
            return
        fields = [EPOCH_FIELD, _word(), LAYOUT_FIELD, layout.encode(), *self._marks(b"")]
        self._call(scripts.FOUND, [[self._seen, *fields]])
        self.begin()

    def seize(self, layout: str) -> None:
        """Begin a new epoch with the mark of a backfill: every write of others is refused."""
        epoch = _word()
        fields = [EPOCH_FIELD, epoch, LAYOUT_FIELD, layout.encode(), BACKFILL_FIELD, b"1"]
        self._layout = self._located()
        self._call(scripts.SET, [[*fields, *self._marks(b"")]])
        self.begin()
        if self._epoch != epoch:
            raise StoreChangedError("wanted to compute features alone, found another beginning to")

    def switch(
        self, layout: str, states: Sequence[str] = (), told: Mapping[bytes, int] | None = None
    ) -> None:
        """Begin a new epoch with another layout: workers forget, and keep that one from now on.

        Args:
            layout: States to keep.
            states: Those of them that are new, told up to ``told``: partitions not named there
                were not told at all.
            told: Positions (``progress.numbers_of``).

        Raises:
            StoreChangedError: as ``write``; nothing was changed.
        """
        epoch = _word()
        fields = [LAYOUT_FIELD, layout.encode(), EPOCH_FIELD, epoch, *self._marks(self._epoch)]
        positions = json.dumps({k.decode(): v for k, v in (told or {}).items()}).encode()
        more = [_packed(fields), positions, *(state.encode() for state in states)]
        try:
            self._call(scripts.SWITCH, [self._guards()[0] + more])
        except StoreChangedError:
            # The first of two sendings may have done it, its answer lost.
            self.begin()
            if self._epoch != epoch:
                raise
        self.begin()

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

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _located(self) -> Layout:
        """Ask which node has which slots; waits while some are with none."""
        if not self._is_cluster:
            return self._layout
        while True:
            why: Exception = ServerError("some slots of the cluster are with no node")
            self._client.topology.doubt()
            try:
                self._client.by_node([self._home])
                if (layout := layout_of(self._client.topology, self._home)) is not None:
                    return layout
            except ServerError as error:
                why = self._reason(error)
            self._wait(why)

    def _look(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Give run and progress of each node, and take note of the runs."""
        found = self._call(scripts.LOOK, [[]] * len(self._layout.keys))
        self._runs = [run for run, _ in found]
        return [(run, dict(zip(flat[::2], flat[1::2], strict=True))) for run, flat in found]

    def _settled(self, found: list[tuple[bytes, dict[bytes, bytes]]]) -> bool | None:
        """Say whether the store is whole; ``None`` after a change, to look again."""
        home, *copies = (fields for _, fields in found)
        self._seen = epoch = home.get(EPOCH_FIELD, b"")
        self._epoch = b""
        if not epoch or home.get(_SHAPE, b"") != self._layout.shape:
            return False
        if self._is_cluster and home.get(_WHOLE) != epoch:
            return self._completed(home, copies)
        if any(copy.get(EPOCH_FIELD) != epoch for copy in copies):
            return False
        self._epoch = epoch
        if back := lowered(home, copies):
            self._change([EPOCH_FIELD, _word(), *self._marks(epoch)], back)
            return None
        return True

    def _completed(
        self, home: dict[bytes, bytes], copies: Sequence[dict[bytes, bytes]]
    ) -> bool | None:
        """Make the copies of an epoch that begins, and say so in the progress."""
        epoch, anew = home[EPOCH_FIELD], bool(home.get(_ANEW))
        seen = {n + 1: copy.get(EPOCH_FIELD, b"") for n, copy in enumerate(copies)}
        if not anew and any(old not in (epoch, home.get(_FORMER)) for old in seen.values()):
            return False
        if anew:
            # Whoever sleeps since the slots were dealt out otherwise must not find its copy.
            others = sorted(set(copy_keys(self._home)) - set(self._layout.keys))
            self._client.call(others, [pack(b"UNLINK", key) for key in others])
        self._copy(home, {n: old for n, old in seen.items() if old != epoch})
        self._epoch = epoch
        self._change([_WHOLE, epoch])
        return None

    def _copy(self, content: Mapping[bytes, bytes], seen: Mapping[int, bytes]) -> None:
        """Make the copies on these nodes anew, unless another did since their epoch was seen."""
        flat = [part for field in content.items() for part in field]
        args = [(node, [self._runs[node], epoch, *flat]) for node, epoch in seen.items()]
        self._exchange([(node, self._command(scripts.COPY, node, own)) for node, own in args])

    def _change(
        self, fields: Sequence[bytes], changes: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        """Change the progress itself, if its epoch is still this one."""
        changes = changes or {}
        kept = [part for n, v in changes.items() if v is not None for part in (n, v)]
        gone = [name for name, value in changes.items() if value is None]
        self._call(scripts.CHANGE, [self._guards({})[0] + [_packed([*fields, *kept]), *gone]])

    def _marks(self, former: bytes) -> list[bytes]:
        """Give a cluster's fields that begin an epoch after ``former`` (empty: from nothing)."""
        if not self._is_cluster:
            return []
        anew = b"" if former else b"1"
        return [_SHAPE, self._layout.shape, _FORMER, former, _ANEW, anew, _WHOLE, b""]

    def _guards(self, taken: Mapping[str, str] | None = None) -> list[list[bytes]]:
        """Give what a guarded script of each node is told first."""
        owned = self._taken if taken is None else taken
        words = _encoder.encode((list(owned), list(owned.values())))
        return [[run, self._epoch, words] for run in self._runs]

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
        command = (b"EVAL", scripts.WRITE, 1 + len(keys), self._home, *keys, *guard, *args)
        return hiredis.pack_command(command)  # type: ignore[arg-type,no-any-return]

    def _command(self, script: str, node: int, args: Sequence[bytes]) -> bytes:
        command = (b"EVAL", script, 1, self._layout.keys[node], *args)
        return hiredis.pack_command(command)  # type: ignore[arg-type,no-any-return]

    def _call(self, script: str, args: Sequence[Sequence[bytes]], first: int = 0) -> list[Any]:
        """Run a script on the nodes from ``first`` on, each with its arguments."""
        return self._exchange(
            [(n, self._command(script, n, own)) for n, own in enumerate(args, start=first)]
        )

    def _exchange(self, commands: Sequence[tuple[int, bytes]]) -> list[Any]:
        """Send all commands, then read their replies; those that may succeed later until then."""
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        while left:
            left, why = self._try(commands, left, replies)
            if why is not None:
                self._wait(why)
        return replies

    def _try(
        self, commands: Sequence[tuple[int, bytes]], wanted: list[int], replies: list[Any]
    ) -> tuple[list[int], Exception | None]:
        """Fill in replies; gives which are wanted still, and why."""
        keys = [self._layout.keys[commands[place][0]] for place in wanted]
        packed = [commands[place][1] for place in wanted]
        try:
            found = self._client.call(keys, packed, timeout_s=self._timeout_s * len(wanted))
        except ServerError as error:
            why = self._reason(error)
            if not is_passing(why):
                raise self._unwritable(why) from error
            return wanted, why
        left: list[int] = []
        last: Exception | None = None
        for place, reply in zip(wanted, found, strict=True):
            if not isinstance(reply, ErrorReply):
                replies[place] = reply
                continue
            if reply.code == "STORECHANGED" or _ELSEWHERE in str(reply):
                found_instead = str(reply).removeprefix("STORECHANGED ")
                raise StoreChangedError(
                    "wanted the online store and partitions this run began with, found "
                    f"{found_instead}"
                ) from reply
            if not is_passing(reply):
                raise self._unwritable(reply) from reply
            if reply.code == "READONLY":
                self._client.close()  # a fail-over: the address may lead to another now
            left.append(place)
            last = reply
        return left, last

    def _wait(self, error: Exception) -> None:
        try:
            self._pause(error)
        except ServerError as end:
            raise self._unwritable(error) from end

    def _reason(self, error: ServerError) -> Exception:
        cause = error.__cause__
        return cause if isinstance(cause, Exception) else error

    def _unwritable(self, error: Exception) -> ServerError:
        return ServerError(
            f"wanted to write features to Redis at {self._client.address}, found "
            f"{type(error).__name__}: {error}; see `recsys status`"
        )


def _word() -> bytes:
    return uuid.uuid4().hex.encode()


def _packed(fields: Sequence[bytes]) -> bytes:
    return _encoder.encode([field.decode() for field in fields])


def _refused(calls: Sequence[_NodeCall], replies: Sequence[list[int]]) -> list[bytes]:
    refused = [
        keys[place]
        for (_, (keys, *_)), places in zip(calls, replies, strict=True)
        for place in places
    ]
    if refused:
        STREAM_REFUSED_WRITES.inc(len(refused))
    return refused
