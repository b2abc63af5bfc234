"""The store of one namespace, as it was when a run began: whole, of one epoch, on all its nodes.

Of one server that is a look at its progress. Of a cluster the copies of the progress are compared
with it (``guard_nodes.py``): an epoch that began and did not reach every node is completed, and
progress that a node lost is taken back, before anything is built on it. Every change is made to the
progress itself first, in one step, so that whoever looks after a crash sees what was meant.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence

import msgspec

from recsys.errors import ServerError
from recsys.features import guard_scripts as scripts
from recsys.features.guard_nodes import Layout, copy_keys, layout_of, lowered
from recsys.features.guarded_calls import GuardedCalls, StoreChangedError
from recsys.features.progress import BACKFILL_FIELD, EPOCH_FIELD, LAYOUT_FIELD
from recsys.features.redis.commands import pack

_SHAPE, _FORMER, _ANEW, _WHOLE = b"shape", b"former", b"anew", b"whole"
"""Of a cluster, in the progress: the layout of its slots; the epoch before this one; whether the
copies may be made from nothing; the epoch all copies are of."""
_MAX_SETTLINGS = 20
"""Of a store that others begin at the same time."""
_encoder = msgspec.msgpack.Encoder()


class GuardedStore(GuardedCalls):
    """Begins a store, and takes note of it."""

    def begin(self) -> bool:
        """Take note of the store as it is now; False when it holds no features of this namespace.

        Call it before reading anything that later writes are made from. No partition is taken.
        """
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


def _word() -> bytes:
    return uuid.uuid4().hex.encode()


def _packed(fields: Sequence[bytes]) -> bytes:
    return _encoder.encode([field.decode() for field in fields])
