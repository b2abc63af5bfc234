"""A stream worker that stops itself, as by SIGSTOP, before it writes a user's hashes for once.

``… FILE USER ARGUMENTS…``: it does so when ``FILE`` is there, and removes it first.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from recsys.features.guarded_writer import GuardedWriter
from recsys.features.hashes import Write
from recsys.features.sent_writes import SentWrites
from serving import stream_worker

send = GuardedWriter.send


def send_later(self: GuardedWriter, writes: Sequence[Write]) -> SentWrites:
    """Send, asleep or not."""
    mark, user = Path(sys.argv[1]), sys.argv[2].encode()
    if mark.exists() and any(user in one.key for one in writes):
        mark.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
    return send(self, writes)


if __name__ == "__main__":
    GuardedWriter.send = send_later  # type: ignore[method-assign]
    sys.exit(stream_worker.main(sys.argv[3:]))
