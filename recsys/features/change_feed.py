"""Which keys of a prefix were changed, in one Redis or all masters of a cluster.

Replicas are not asked: what they say is behind by the replication lag, and they are told nothing of
it being so.
"""

from __future__ import annotations

import time

from recsys.features.redis.client import RedisClient
from recsys.features.redis.greeting import unreachable
from recsys.features.redis.replies import ErrorReply
from recsys.features.redis.tracking import Heard, Slots, Tracking


class ChangeFeed:
    """Hears of changes from the moment it is made. Not thread-safe.

    It raises ServerError when a node is lost or slots have moved, now or later. What was changed
    since the last answer is then not known: close it, make another, and read all again.
    """

    def __init__(self, client: RedisClient, prefix: bytes, *, timeout_s: float) -> None:
        """``client`` is that of the same Redis; it stays the caller's."""
        self._client = client
        self._timeout_s = timeout_s
        self._nodes: list[Tracking] = []
        deadline = time.monotonic() + timeout_s
        try:
            for node in client.masters():
                tracking = Tracking(client.address, node, prefix, client.tls, deadline)
                self._nodes.append(tracking)
            self._slots = _agreed(self._heard(deadline))
            if client.address.is_cluster and len({n for _, _, n in self._slots}) != len(
                self._nodes
            ):
                raise ConnectionError("the cluster is changing its masters")
        except (OSError, ErrorReply) as error:
            self.close()
            raise unreachable(client.address, error) from error
        except BaseException:
            self.close()
            raise

    def changed(self) -> set[bytes] | None:
        """Give the keys changed before this call and not given yet; None: all may have been."""
        try:
            heard = self._heard(time.monotonic() + self._timeout_s)
            if _agreed(heard) != self._slots:
                raise ConnectionError("slots of the cluster have moved")
        except (OSError, ErrorReply) as error:
            raise unreachable(self._client.address, error) from error
        if any(one.all_changed for one in heard):
            return None
        return set().union(*(one.keys for one in heard))

    def close(self) -> None:
        """Let go of the connections."""
        nodes, self._nodes = self._nodes, []
        for tracking in nodes:
            tracking.close()

    def _heard(self, deadline: float) -> list[Heard]:
        return [tracking.heard(deadline) for tracking in self._nodes]


def _agreed(heard: list[Heard]) -> Slots:
    views = {one.slots for one in heard}
    if len(views) != 1:
        raise ConnectionError("the nodes of the cluster do not agree yet on who has which slots")
    return views.pop()
