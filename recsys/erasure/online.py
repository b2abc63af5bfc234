"""What of a user lies in the online store, and the file Redis keeps of it."""

from __future__ import annotations

import time
from typing import Any

import redis

from recsys.errors import ServerError
from recsys.features.key_layout import ending_of_user, is_keyed_by_user
from recsys.features.redis_hashes import RedisKeys

_POLL_S = 0.1


class OnlineStore:
    """The hashes of one project."""

    def __init__(self, client: redis.Redis, project: str, *, is_cluster: bool = False) -> None:
        self._client = client
        self._is_cluster = is_cluster
        self._project = project

    def num_keys(self) -> int:
        """Give how many keys a search looks at.

        Raises:
            ServerError: when Redis does not answer.
        """
        try:
            return int(self._client.dbsize())  # type: ignore[arg-type]
        except redis.RedisError as error:
            raise _away(error) from error

    def keys_of(self, user_id: str) -> list[bytes]:
        """Give every hash of the user, alone or with an item or category.

        Raises:
            ServerError: when Redis does not answer.
        """
        try:
            found = RedisKeys(self._client).ending(ending_of_user(user_id, self._project))
        except redis.RedisError as error:
            raise _away(error) from error
        return [key for key in found if is_keyed_by_user(key)]

    def rewrite_file(self, *, timeout_s: float) -> str:
        """Have Redis write its append-only file anew, without what was removed; says what it did.

        Redis refusing (a cluster's nodes, a missing right) is said, not raised: the file is the
        operator's then.
        """
        if self._is_cluster:
            return "append-only files of the cluster's nodes: run BGREWRITEAOF on each"
        try:
            if not self._persistence().get("aof_enabled"):
                return "no append-only file; a snapshot (RDB) loses it when the next one is made"
            self._client.execute_command("BGREWRITEAOF")  # type: ignore[no-untyped-call]
            deadline = time.monotonic() + timeout_s
            while self._is_rewriting():
                if time.monotonic() > deadline:
                    return f"append-only file: still being written anew after {timeout_s:g} s"
                time.sleep(_POLL_S)
            if self._persistence().get("aof_last_bgrewrite_status") != "ok":
                return "append-only file: writing it anew failed, see the server's log"
        except redis.RedisError as error:
            return f"append-only file: not written anew ({error}); run BGREWRITEAOF"
        return "append-only file written anew"

    def _is_rewriting(self) -> bool:
        now = self._persistence()
        names = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        return any(now.get(name) for name in names)

    def _persistence(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.info("persistence")  # type: ignore[assignment]
        return found


def _away(error: redis.RedisError) -> ServerError:
    return ServerError(
        f"Redis: wanted to look for the user's hashes, found: {error}; see REDIS_URL"
    )
