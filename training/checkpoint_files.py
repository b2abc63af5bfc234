"""A run's state as a file with a checksum, and the folder that keeps the last few.

A state that does not fit its checksum is said and left, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from recsys.events.durable_files import make_directory, write_durably
from training.loop import State

STATE_FILE, SUM_FILE = "state.pt", "state.sha256"
KEPT = 2
logger = logging.getLogger(__name__)


def write_state(folder: Path, state: State) -> None:
    """Write a state and its checksum into ``folder``; the checksum last, so that it tells."""
    data = io.BytesIO()
    torch.save(state, data)
    content = data.getvalue()
    write_durably(folder / STATE_FILE, content)
    write_durably(folder / SUM_FILE, hashlib.sha256(content).hexdigest().encode())


def read_state(folder: Path) -> State | None:
    """Read what ``write_state`` wrote; None, with a warning, when it is damaged."""
    path = folder / STATE_FILE
    try:
        content = path.read_bytes()
        wanted = (folder / SUM_FILE).read_text()
    except OSError as error:
        logger.warning("checkpoint unreadable", extra={"folder": str(folder), "error": str(error)})
        return None
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        logger.warning(
            "checkpoint damaged: its checksum does not fit",
            extra={"folder": str(folder), "wanted": wanted[:12], "found": found[:12]},
        )
        return None
    state: State = torch.load(io.BytesIO(content), weights_only=False)
    return state


def newest_whole(folders: Iterable[Path]) -> State | None:
    """Give the first whole state of ``folders`` (newest first); None, said, when none is whole."""
    passed: list[str] = []
    for folder in folders:
        state = read_state(folder)
        if state is not None:
            if passed:
                logger.warning(
                    "an earlier checkpoint is used",
                    extra={"folder": str(folder), "passed_over": passed},
                )
            return state
        passed.append(str(folder))
    if passed:
        logger.warning("no whole checkpoint, training begins anew", extra={"found": passed})
    return None


class FolderCheckpoints:
    """``Checkpoints`` of a run without Ray: ``<folder>/0000012/``, the last two kept."""

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        """Take a folder of this run alone."""
        self._folder = folder
        self._rank = rank

    def latest(self) -> State | None:
        """Give the newest whole state; None at the beginning."""
        return newest_whole(reversed(self._numbered()))

    def save(self, state: State, metrics: dict[str, float]) -> None:
        """Keep a state, and let go of the third last."""
        del metrics
        if self._rank != 0:
            return
        there = self._numbered()
        number = int(there[-1].name) + 1 if there else 0
        folder = self._folder / f"{number:07d}"
        make_directory(folder)
        write_state(folder, state)
        for old in there[: max(len(there) + 1 - KEPT, 0)]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()

    def _numbered(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(p for p in self._folder.iterdir() if re.fullmatch(r"\d{7}", p.name))
