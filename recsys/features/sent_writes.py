"""Writes that are under way: Redis does them while their sender computes the next ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis


class SentWrites:
    """Commands on a connection of their own, whose replies are still to come. Not thread-safe."""

    def __init__(
        self,
        pool: redis.ConnectionPool,
        commands: Sequence[bytes],
        understand: Callable[[Sequence[Any]], list[bytes]],
        again: Callable[[], list[bytes]],
    ) -> None:
        """Send.

        Args:
            pool: Gives the connection.
            commands: Packed; few enough for the buffers between here and the server.
            understand: Gives the refused keys of their replies.
            again: Sends them once more and waits, with patience or the error that ends it; what
                the first sending did is refused then.
        """
        self._pool, self._num, self._understand, self._again = (
            pool,
            len(commands),
            understand,
            again,
        )
        self._connection: Any = None
        try:
            self._connection = pool.get_connection()
            self._connection.send_packed_command(commands)
        except redis.RedisError:
            self.drop()

    def refused(self) -> list[bytes]:
        """Wait for the replies; gives the refused keys, and raises what ``again`` does."""
        if self._connection is None:
            return self._again()
        try:
            replies = [self._connection.read_response() for _ in range(self._num)]
        except redis.RedisError:
            self.drop()
            return self._again()
        except BaseException:
            self.drop()
            raise
        self._pool.release(self._connection)
        self._connection = None
        return self._understand(replies)

    def drop(self) -> None:
        """Wait no longer: whether they are done stays open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()  # an answer on its way must not be taken for the next
            self._pool.release(connection)
