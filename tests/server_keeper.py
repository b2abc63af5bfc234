"""Holds one server of a test session and ends it with the session. Not a test.

``python tests/server_keeper.py SPECIFICATION.json``: starts the command, then waits for whichever
comes first: SIGTERM, the end of the server, or the end of the process that owns the session.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path

from serving.embedded.launch import Launch, spawn, stop


def main() -> int:
    """Run until one of the three ends."""
    given = json.loads(Path(sys.argv[1]).read_text())
    try:
        owner = os.pidfd_open(given["owner"])
    except ProcessLookupError:
        return 1
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Ctrl-C reaches the whole terminal group; the owner decides when servers end.
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else lambda *_: None)
    launch = Launch(
        name=given["name"],
        version="",
        command=tuple(given["command"]),
        address="",
        work_dir=Path(given["work_dir"]),
        environment=given["environment"],
        missing=lambda: None,
    )
    with Path(given["log"]).open("ab") as log:
        server = spawn(launch, log, os.environ)
    select.select([owner, told, os.pidfd_open(server.pid)], [], [])
    stop(server, given["stop_grace_s"])
    return server.returncode


if __name__ == "__main__":
    sys.exit(main())
