"""Shows what the servers print."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path

from recsys.errors import ServerError

_POLL_S = 0.2


def show_logs(run_dir: Path, server: str | None, lines: int, follow: bool) -> int:
    """Print the last ``lines`` of one server's log or of all; go on while it grows on ``follow``.

    Raises:
        ServerError: there is no such log.
    """
    files = {path.stem: path for path in sorted((run_dir / "logs").glob("*.log"))}
    if server is not None and server not in files:
        raise ServerError(
            f"wanted the log of {server}, found {', '.join(files) or 'no logs'} in "
            f"{run_dir / 'logs'}; name one of them, or run `recsys up` first"
        )
    chosen = {server: files[server]} if server is not None else files
    offsets = {}
    for name, path in chosen.items():
        with path.open(errors="replace") as file:
            last = deque(file, maxlen=max(0, lines))
            offsets[name] = file.tell()
        _write(name, last, prefixed=len(chosen) > 1)
    while follow:
        time.sleep(_POLL_S)
        for name, path in chosen.items():
            size = path.stat().st_size if path.exists() else 0
            if size < offsets[name]:  # begun anew
                offsets[name] = 0
            if size > offsets[name]:
                with path.open(errors="replace") as file:
                    file.seek(offsets[name])
                    fresh = deque(file)
                    offsets[name] = file.tell()
                _write(name, fresh, prefixed=len(chosen) > 1)
    return 0


def _write(name: str, lines: deque[str], *, prefixed: bool) -> None:
    for line in lines:
        sys.stdout.write(f"{name:>10} | {line}" if prefixed else line)
    sys.stdout.flush()
