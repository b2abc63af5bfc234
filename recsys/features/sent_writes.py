"""Writes that are under way: Redis does them while their sender computes the next ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recsys.features.redis.client import Sent
from recsys.features.redis.replies import ErrorReply


class SentWrites:
    """Commands whose replies are still to come. Not thread-safe."""

    def __init__(
        self,
        sent: Sent | None,
        timeout_s: float,
        understand: Callable[[Sequence[Any]], list[bytes]],
        again: Callable[[], list[bytes]],
    ) -> None:
        """Take what was sent.

        Args:
            sent: The commands; ``None`` when they could not be sent.
            timeout_s: How long to wait for them.
            understand: Gives the refused keys of their replies.
            again: Sends them once more and waits, with patience or the error that ends it; what
                the first sending did is refused then.
        """
        self._sent, self._timeout_s = sent, timeout_s
        self._understand, self._again = understand, again

    def refused(self) -> list[bytes]:
        """Wait for the replies; gives the refused keys, and raises what ``again`` does."""
        sent, self._sent = self._sent, None
        replies = None if sent is None else sent.replies(self._timeout_s)
        if replies is None or any(isinstance(reply, ErrorReply) for reply in replies):
            return self._again()
        return self._understand(replies)

    def drop(self) -> None:
        """Wait no longer: whether they are done stays open."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.drop()
