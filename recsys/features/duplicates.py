"""The same event twice in the log counts once, within a bounded horizon.

An event is a duplicate when its id occurs among the ``HORIZON`` records before it in its partition.
All events of a user lie in one partition, and what is a duplicate follows from the log alone: a
worker that starts anew reads those records again and decides as the one before it would have.
"""

from __future__ import annotations

from collections import deque

HORIZON = 10_000
"""Records of a partition looked back over: some 2 MB of ids, and a tenth of a second to read
again at start. A sender that retries repeats itself within seconds."""


class DuplicateWindow:
    """Event ids of the latest records of one partition."""

    def __init__(self, horizon: int = HORIZON) -> None:
        self._horizon = horizon
        self._latest: dict[str, int] = {}
        self._order: deque[tuple[int, str]] = deque()

    def seen_before(self, event_id: str, offset: int) -> bool:
        """Note the record, and say whether its id occurred shortly before it."""
        limit = offset - self._horizon
        order, latest = self._order, self._latest
        while order and order[0][0] < limit:
            old_offset, old_id = order.popleft()
            if latest.get(old_id) == old_offset:
                del latest[old_id]
        previous = latest.get(event_id, offset)
        latest[event_id] = offset
        order.append((offset, event_id))
        return previous < offset
