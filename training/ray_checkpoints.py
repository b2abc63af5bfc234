"""Checkpoints of a run on Ray Train: numbered folders beside each other, each with a checksum.

``<run>/checkpoint_0000012/``. Which is the newest is read from the folders, not from the list that
Ray's controller keeps of them: that file is written in place, so a kill can leave it cut short or a
checkpoint behind, and Ray then refuses the whole run.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from training.checkpoint_files import KEPT, newest_whole, write_state
from training.loop import State

_LIST_FILE = "checkpoint_manager_snapshot.json"
"""Ray's own list."""


class RayCheckpoints:
    """``Checkpoints`` that go through Ray Train's reports."""

    def __init__(self, run: Path, rank: int) -> None:
        """``run`` is the run's folder in storage that all workers see."""
        self._run = run
        self._rank = rank

    def latest(self) -> State | None:
        """Give the newest whole state. Damaged ones are said and passed over."""
        return newest_whole(reversed(_numbered(self._run)))

    def save(self, state: State, metrics: dict[str, float]) -> None:
        """Hand a state to Ray Train, which copies it before it returns."""
        import ray.train

        if self._rank != 0:
            ray.train.report(metrics)
            return
        there = _numbered(self._run)
        number = _number(there[-1]) + 1 if there else 0
        with tempfile.TemporaryDirectory() as folder:
            write_state(Path(folder), state)
            ray.train.report(
                metrics, checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"checkpoint_{number:07d}",
            )  # fmt: skip


def begin_run(run: Path) -> None:
    """Make a run's folder ready for a new driver: few checkpoints, and a list of Ray's own making.

    One more stays than Ray keeps: the newest may have been cut short.
    """
    (run / _LIST_FILE).unlink(missing_ok=True)
    for old in _numbered(run)[: -(KEPT + 1)]:
        shutil.rmtree(old, ignore_errors=True)


def _numbered(run: Path) -> list[Path]:
    if not run.is_dir():
        return []
    return sorted(p for p in run.iterdir() if re.fullmatch(r"checkpoint_\d{7}", p.name))


def _number(path: Path) -> int:
    return int(path.name.rpartition("_")[2])
