"""Writes hashes in Redis if they are still as they were, and only into the store one began with.

One script writes many hashes in one call. It refuses a hash whose version is not the one its state
was read at (``hashes.py``), which is what several workers of one entity need. And it writes nothing
at all when the store itself is another than at ``begin``, because then its versions and positions
speak of another past:

- the server was restarted or another took its place (its ``run_id`` differs): the last writes may
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

A cut connection or a time-out leaves it open whether the script ran. It is simply sent again: what
was written the first time has another version now and is refused, and whoever reads that state
again finds its records applied. Scripts are sent whole (1 KB beside some 100 KB of fields), so a
server that forgot them is no case of its own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hiredis
import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.errors import ConfigurationError, RecsysError, ServerError
from recsys.events.log import TopicPartition
from recsys.features.hashes import Write
from recsys.features.packed_fields import PackedFields, each_packed
from recsys.features.patience import give_up, is_passing
from recsys.features.progress import (
    BACKFILL_FIELD,
    EPOCH_FIELD,
    LAYOUT_FIELD,
    owner_field,
    progress_key,
)
from recsys.features.redis.address import parse
from recsys.features.redis_hashes import TIMEOUT_S, connect
from recsys.features.sent_writes import SentWrites
from recsys.telemetry import STREAM_REFUSED_WRITES

_CHUNK_HASHES = 256
_CHUNK_BYTES = 512 * 1024
"""Of one script call: bounds how long Redis serves nobody else to a few ms."""
_HASHES_AT_ONCE = 16 * _CHUNK_HASHES
"""Sent before the first reply is waited for; the time-out is that of one reply."""
_Encoded = tuple[list[bytes], bytes, bytes]
"""Keys; for each its version, how many groups of fields follow and the place of the widths of each,
with those widths; names and values in a row."""
_MAX_WIDTHS_BYTES = 4_000
"""A width takes two bytes at least, so these are 2,000 names and values."""
_encoder = msgspec.msgpack.Encoder()

_RUN = "local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')\n"
_LOOK = _RUN + "return {run, redis.call('HGET', KEYS[1], 'epoch')}"
# The one hash that is told of first is the progress, which holds the epoch.
_WORDS = "return redis.call('HMGET', KEYS[1], unpack(ARGV))"
# ARGV of all that are guarded: run, epoch, and partitions taken: names and words in msgpack.
_GUARD = (
    _RUN
    + """
if run ~= ARGV[1] then return redis.error_reply('STORECHANGED the server is another') end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then
  return redis.error_reply('STORECHANGED its features are others')
end
local owned, words = unpack(cmsgpack.unpack(ARGV[3]))
if #owned > 0 then
  for i, word in ipairs(redis.call('HMGET', KEYS[1], unpack(owned))) do
    if word ~= words[i] then
      return redis.error_reply('STORECHANGED ' .. owned[i] .. ' to be another worker now')
    end
  end
end
"""
)
# More ARGV: for each partition its name, the word that stands there ("" for none) and the new one.
_TAKE = (
    _GUARD
    + """
local fields = {}
for i = 4, #ARGV, 3 do
  local word = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  if word ~= ARGV[i + 1] and word ~= ARGV[i + 2] then
    return redis.error_reply('STORECHANGED ' .. ARGV[i] .. ' to be another worker now')
  end
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = ARGV[i + 2]
end
redis.call('HSET', KEYS[1], unpack(fields))
return 0
"""
)
_WRITE = (
    _GUARD
    + """
local numbers, widths = unpack(cmsgpack.unpack(ARGV[4]))
local data, at, from, refused = ARGV[5], 1, 1, {}
for i = 2, #KEYS do
  local version, n = numbers[at], numbers[at + 1]
  local stored = tonumber(redis.call('HGET', KEYS[i], '~w') or 0)
  local is_refused = version ~= stored and version ~= -1
  at = at + 2
  if is_refused then
    refused[#refused + 1] = i - 2
  elseif n < 0 then
    redis.call('UNLINK', KEYS[i])
  elseif n == 0 then
    redis.call('HSET', KEYS[i], '~w', stored + 1)
  end
  for j = at, at + n - 1 do
    local parts = {struct.unpack(widths[numbers[j]], data, from)}
    from = table.remove(parts)
    if not is_refused then redis.call('HSET', KEYS[i], '~w', stored + 1, unpack(parts)) end
  end
  at = at + math.max(n, 0)
end
return refused
"""
)
_ADVANCE = (
    _GUARD
    + """
for i = 4, #ARGV, 2 do
  local at = string.match(ARGV[i], '@(.+)$')
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if at then -- a state that is behind, until it is not
    if stored and tonumber(ARGV[i + 1]) >= tonumber(redis.call('HGET', KEYS[1], at) or 0) then
      redis.call('HDEL', KEYS[1], ARGV[i])
    elseif stored and tonumber(stored) < tonumber(ARGV[i + 1]) then
      redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
  elseif not stored or tonumber(stored) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 0
"""
)
# More ARGV: new epoch, layout, positions as JSON, then states that are told up to those.
_SWITCH = (
    _GUARD
    + """
local told = cjson.decode(ARGV[6])
for _, at in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.find(at, '/') and not string.find(at, '@') and string.sub(at, 1, 5) ~= 'base:' then
    local base = redis.call('HGET', KEYS[1], 'base:' .. at) or 0
    local position = tonumber(told[at] or base)
    if position < tonumber(redis.call('HGET', KEYS[1], at)) then
      for i = 7, #ARGV do
        redis.call('HSET', KEYS[1], ARGV[i] .. '@' .. at, string.format('%.0f', position))
      end
    end
  end
end
redis.call('HSET', KEYS[1], 'layout', ARGV[5], 'epoch', ARGV[4])
return 0
"""
)
_FOUND = """
if redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'layout', ARGV[2])
end
return 0
"""


class StoreChangedError(RecsysError):
    """The online store is not the one this run began with; forget it and begin again."""


class GuardedWriter:
    """Writes the hashes of one namespace (``HashWriter``). One connection; not thread-safe."""

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
            url: Of one server (``redis/address.py``). Not a cluster: the progress that guards the
                writes must lie where they do.
            namespace: Whose progress guards the writes.
            pause: Called before a command is tried again because the store was full, read-only,
                slow or away; ends the trying by raising (``patience.py``).
            timeout_s: Longest wait for an answer.

        Raises:
            ConfigurationError: when the URL is none, or of a cluster.
        """
        address = parse(url)
        if address.is_cluster:
            raise ConfigurationError(
                "REDIS_URL: wanted one server (redis://, rediss://, unix://) to write features of "
                f"the stream to, found a cluster, {address}; only reads and Feast's pushes work "
                "there"
            )
        self._url = url
        self._key = progress_key(namespace)
        self._pause = pause
        # Tries of its own: ``pause`` decides about them.
        client = connect(url, timeout_s=timeout_s, retry=Retry(NoBackoff(), 0))
        self._pool = client.connection_pool
        self._run = self._epoch = b""
        self._taken: dict[str, str] = {}
        self._sent: SentWrites | None = None

    def begin(self) -> bool:
        """Take note of the store as it is now; False when it holds no features of this namespace.

        Call it before reading anything that later writes are made from. No partition is taken.
        """
        if self._sent is not None:
            self._sent.drop()
        found = self._call(_LOOK, [self._key], [])
        self._run, epoch = found
        self._epoch = epoch or b""
        self._taken = {}
        return epoch is not None

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
        stored = self._call(_WORDS, [self._key], [name.encode() for name in names])
        taken = {name: uuid.uuid4().hex for name in names}
        rest = {name: word for name, word in self._taken.items() if name not in taken}
        args = self._guard(rest)
        for name, word in zip(names, stored, strict=True):
            before = self._taken.get(name, (word or b"").decode())
            args += (name.encode(), before.encode(), taken[name].encode())
        self._call(_TAKE, [self._key], args)
        self._taken = rest | taken

    def let_go(self, partitions: Sequence[TopicPartition]) -> None:
        """Write nothing more from these partitions' records; whoever takes them is welcome."""
        for at in partitions:
            self._taken.pop(owner_field(at), None)

    @property
    def epoch(self) -> str:
        """Name of the store's present life, as of ``begin``; empty when there is none."""
        return self._epoch.decode()

    def found(self, layout: str) -> None:
        """Begin an empty store, unless another process just did, and take note of it."""
        self._call(_FOUND, [self._key], [uuid.uuid4().hex.encode(), layout.encode()])
        self.begin()

    def seize(self, layout: str) -> None:
        """Begin a new epoch with the mark of a backfill: every write of others is refused."""
        epoch = uuid.uuid4().hex.encode()
        fields = [EPOCH_FIELD, epoch, LAYOUT_FIELD, layout.encode(), BACKFILL_FIELD, b"1"]
        self._call("return redis.call('HSET', KEYS[1], unpack(ARGV))", [self._key], fields)
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
        epoch = uuid.uuid4().hex.encode()
        positions = json.dumps({k.decode(): v for k, v in (told or {}).items()}).encode()
        args = [*self._guard(), epoch, layout.encode(), positions, *(s.encode() for s in states)]
        try:
            self._call(_SWITCH, [self._key], args)
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
                taken by another; nothing after that point was written.
            ServerError: when it cannot be written and ``pause`` has had enough.
        """
        refused: list[bytes] = []
        for at in range(0, len(writes), _HASHES_AT_ONCE):
            calls = _chunks(writes[at : at + _HASHES_AT_ONCE])
            refused += _refused(calls, self._exchange(self._commands(calls)))
        return refused

    def send(self, writes: Sequence[Write]) -> SentWrites:
        """See ``FeatureWriter.send``; of many writes the last few thousand are under way.

        Raises:
            StoreChangedError: as ``write``.
            ServerError: as ``write``.
        """
        first = (max(len(writes), 1) - 1) // _HASHES_AT_ONCE * _HASHES_AT_ONCE
        refused, rest = self.write(writes[:first]), writes[first:]
        calls = _chunks(rest)
        if self._sent is not None:
            self._sent.drop()
        self._sent = SentWrites(
            self._pool,
            self._commands(calls),
            lambda replies: refused + _refused(calls, replies),
            lambda: refused + self.write(rest),
        )
        return self._sent

    def advance(self, numbers: Mapping[bytes, int]) -> None:
        """Raise numbers of the progress hash; one that is greater there already stays.

        Raises:
            StoreChangedError: as ``write``.
        """
        args = self._guard()
        for name, value in numbers.items():
            args += (name, b"%d" % value)
        self._call(_ADVANCE, [self._key], args)

    def close(self) -> None:
        """Let go of the connection."""
        self._pool.disconnect()

    def _guard(self, taken: Mapping[str, str] | None = None) -> list[bytes]:
        owned = self._taken if taken is None else taken
        words = _encoder.encode((list(owned), list(owned.values())))
        return [self._run, self._epoch, words]

    def _commands(self, calls: Sequence[_Encoded]) -> list[bytes]:
        return [self._packed(_WRITE, [self._key, *keys], args) for keys, *args in calls]

    def _packed(self, script: str, keys: list[bytes], args: list[bytes]) -> bytes:
        command = (b"EVAL", script, len(keys), *keys, *self._guard(), *args)
        return hiredis.pack_command(command)  # type: ignore[arg-type,no-any-return]

    def _call(self, script: str, keys: list[bytes], args: list[bytes]) -> Any:
        command = (b"EVAL", script, len(keys), *keys, *args)
        return self._exchange([hiredis.pack_command(command)])[0]  # type: ignore[arg-type]

    def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """Send all commands, then read their replies; those that may succeed later until then."""
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        while left:
            left, error = self._try(commands, left, replies)
            if error is None:
                continue
            try:
                self._pause(error)
            except ServerError as end:
                raise self._unwritable(error) from end
        return replies

    def _try(
        self, commands: Sequence[bytes], wanted: list[int], replies: list[Any]
    ) -> tuple[list[int], redis.RedisError | None]:
        """Fill in replies; gives which are wanted still, and why."""
        connection: Any = None
        left: list[int] = []
        why: redis.RedisError | None = None
        unread = wanted
        try:
            connection = self._pool.get_connection()
            connection.send_packed_command([commands[place] for place in wanted])
            for n, place in enumerate(wanted):
                unread = wanted[n:]
                try:
                    replies[place] = connection.read_response()
                except redis.ResponseError as error:
                    if not is_passing(error):
                        raise
                    left.append(place)
                    why = error
            unread = []
        except redis.RedisError as error:
            if connection is not None:
                connection.disconnect()  # an answer on its way must not be taken for the next
            if str(error).startswith("STORECHANGED"):
                raise StoreChangedError(
                    f"wanted the online store and partitions this run began with, found "
                    f"{str(error).removeprefix('STORECHANGED ')}"
                ) from error
            if not is_passing(error):
                raise self._unwritable(error) from error
            why = error
        finally:
            if connection is not None:
                self._pool.release(connection)
        if isinstance(why, redis.exceptions.ReadOnlyError):
            self._pool.disconnect()  # a fail-over: the address may lead to another now
        return left + unread, why

    def _unwritable(self, error: Exception) -> ServerError:
        return ServerError(
            f"wanted to write features to Redis at {self._url.rpartition('@')[2]}, found "
            f"{type(error).__name__}: {error}; see `recsys status`"
        )


def _chunks(writes: Sequence[Write]) -> list[_Encoded]:
    starts = range(0, len(writes), _CHUNK_HASHES)
    return [call for at in starts for call in _calls(writes[at : at + _CHUNK_HASHES])]


def _refused(calls: Sequence[_Encoded], replies: Sequence[list[int]]) -> list[bytes]:
    refused = [
        keys[place] for (keys, *_), places in zip(calls, replies, strict=True) for place in places
    ]
    if refused:
        STREAM_REFUSED_WRITES.inc(len(refused))
    return refused


def _calls(writes: Sequence[Write]) -> list[_Encoded]:
    """Give what script calls are told: one, or more where the values are large.

    Names and values travel as one string each way: packing some twenty arguments for each hash
    would cost several times what is done with them.
    """
    numbers: list[int] = []
    parts: list[bytes] = []
    place_of: dict[bytes, int] = {}
    for _, fields, version, remove in writes:
        if remove:
            numbers += (version, -1)
            continue
        packed = fields.parts if isinstance(fields, PackedFields) else each_packed(fields)
        widths = _grouped([own for own, _ in packed])
        numbers += (version, len(widths))
        numbers += [place_of.setdefault(own, len(place_of) + 1) for own in widths]
        parts += [own for _, own in packed]
    data = b"".join(parts)
    if len(data) > _CHUNK_BYTES and len(writes) > 1:
        middle = len(writes) // 2
        return [*_calls(writes[:middle]), *_calls(writes[middle:])]
    told = _encoder.encode((numbers, [own.decode() for own in place_of]))
    return [([write.key for write in writes], told, data)]


def _grouped(widths: list[bytes]) -> list[bytes]:
    """Join the widths of parts, as far as what they stand for fits on Lua's stack."""
    groups: list[list[bytes]] = []
    size = _MAX_WIDTHS_BYTES
    for own in widths:
        size += len(own)
        if size > _MAX_WIDTHS_BYTES:
            groups.append([])
            size = len(own)
        groups[-1].append(own)
    return [b"".join(group) for group in groups]
