"""Scripts sent to the nodes of the online store, again and again until each has answered.

What they are told first is as of ``GuardedStore.begin``, and what refuses them for it ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from recsys.errors import RecsysError, ServerError
from recsys.features.guard_nodes import Layout
from recsys.features.patience import give_up, is_passing
from recsys.features.progress import progress_key
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import pack
from recsys.features.redis.greeting import TIMEOUT_S
from recsys.features.redis.replies import ErrorReply

_ELSEWHERE = "non local key"
_encoder = msgspec.msgpack.Encoder()


class StoreChangedError(RecsysError):
    """The online store is not the one this run began with; forget it and begin again."""


class GuardedCalls:
    """The nodes of one store, and what was noted of them. Not thread-safe."""

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

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    @property
    def _is_cluster(self) -> bool:
        return self._client.address.is_cluster

    def _guards(self, taken: Mapping[str, str] | None = None) -> list[list[bytes]]:
        """Give what a guarded script of each node is told first."""
        owned = self._taken if taken is None else taken
        words = _encoder.encode((list(owned), list(owned.values())))
        return [[run, self._epoch, words] for run in self._runs]

    def _command(self, script: str, node: int, args: Sequence[bytes]) -> bytes:
        return pack(b"EVAL", script.encode(), b"1", self._layout.keys[node], *args)

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
