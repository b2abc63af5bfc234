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
from serving import stream_worker

write = GuardedWriter.write


def write_later(self: GuardedWriter, writes: Sequence[Write]) -> list[bytes]:
    """Write, asleep or not."""
    mark, user = Path(sys.argv[1]), sys.argv[2].encode()
    if mark.exists() and any(user in one.key for one in writes):
        mark.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
    return write(self, writes)


if __name__ == "__main__":
    GuardedWriter.write = write_later  # type: ignore[method-assign]
    sys.exit(stream_worker.main(sys.argv[3:]))
