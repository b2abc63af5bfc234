"""A stream worker that is killed when it has sent its nth script to a node: ``… N ARGUMENTS…``.

The node may have got it; those after it did not.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from recsys.features.guard_scripts import ADVANCE, WRITE_NODE
from recsys.features.redis.client import RedisClient
from serving import stream_worker

begin = RedisClient._begin
left = int(sys.argv[1])


def begin_or_die(self: RedisClient, send: Any, deadline: float) -> Any:
    """Send, and die if it was the nth."""
    global left
    connection = begin(self, send, deadline)
    if any(script.encode() in send.data for script in (ADVANCE, WRITE_NODE)):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return connection


if __name__ == "__main__":
    RedisClient._begin = begin_or_die  # type: ignore[method-assign]
    sys.exit(stream_worker.main(sys.argv[2:]))
