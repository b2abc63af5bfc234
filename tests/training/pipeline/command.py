"""``recsys pipeline run`` as a process that can be watched by its journal, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from training.pipeline.journal import read_journal
from training.ray_folders import belonging_to, default_root

ROOT = Path(__file__).resolve().parents[3]
_WAIT_S = 600.0


class Command:
    """One process of the command; ``folder`` is its working directory."""

    def __init__(
        self, folder: Path, state: Path, *arguments: str, environment: Mapping[str, str]
    ) -> None:
        self._runs = state / "pipeline" / "runs"
        self._before = self._sizes()
        self._after: dict[Path, int] | None = None
        self.rays: set[Path] = set()
        """Folders of the local Rays that this process was seen to start."""
        number = len(list(folder.glob("said-*.txt")))
        self._said, self._result = folder / f"said-{number}.txt", folder / f"result-{number}.txt"
        self.began_s = time.monotonic()
        with self._said.open("w") as said, self._result.open("w") as result:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "recsys.cli", "pipeline", "run", *arguments],
                cwd=folder, env=environment, stdout=result, stderr=said,
            )  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        """Give what this process told, not what one before or after it did for the same run."""
        found = []
        for path in sorted(self._runs.glob("*.jsonl")):
            until = None if self._after is None else self._after.get(path, 0)
            found += list(read_journal(path))[self._before.get(path, 0) : until]
        return found

    def of_kind(self, kind: str) -> list[str]:
        return [event["step"] for event in self.events() if event["event"] == kind]

    def epochs(self, phase: str) -> list[int]:
        return [e["epoch"] for e in self.events() if e["event"] == "epoch" and e["phase"] == phase]

    def await_epoch(self, phase: str, epoch: int) -> None:
        self._await(lambda: max(self.epochs(phase), default=0) >= epoch, f"{phase} epoch {epoch}")

    def end(self) -> int:
        """Wait until the process has ended; give its exit code."""
        self._await(lambda: self._process.poll() is not None, "the end")
        return self._ended()

    def kill(self, *, keepers: bool = False) -> None:
        """Kill (SIGKILL) the process; with ``keepers`` those of its Ray at the same time."""
        others = self.keepers() if keepers else []
        for process in others:
            process.suspend()  # lest it sees the driver die
        self._process.kill()
        self._ended()
        for process in others:
            process.kill()
            process.wait()

    def terminate(self) -> int:
        """Ask the process to stop (SIGTERM); give its exit code."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=400)
        return self._ended()

    def keepers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if "training.ray_keeper" in command and any(ray.name in command for ray in self.rays):
                found.append(process)
        return found

    def left(self) -> list[psutil.Process]:
        """Give the processes of its local Rays that still run."""
        return [process for ray in self.rays for process in belonging_to(ray)]

    def is_clean(self) -> bool:
        """Say whether its Rays are gone: processes, keepers, folders and notes."""
        paths = [path for ray in self.rays for path in (ray, ray.with_suffix(".driver"))]
        return not self.left() and not self.keepers() and not any(path.exists() for path in paths)

    def clean_within(self, seconds: float) -> float | None:
        """Give after how many seconds its Rays are gone; None when they are not."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.is_clean():
                return round(time.monotonic() - began, 1)
            time.sleep(0.1)
        return None

    def said(self) -> str:
        return self._said.read_text()

    def result(self) -> str:
        return self._result.read_text()

    def _ended(self) -> int:
        code = self._process.wait()
        self._after = self._sizes()
        return code

    def _sizes(self) -> dict[Path, int]:
        return {path: len(list(read_journal(path))) for path in self._runs.glob("*.jsonl")}

    def _await(self, done: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _WAIT_S
        while not done():
            if self._process.poll() is not None and not done():
                raise RuntimeError(
                    f"wanted {what}, found that the run ended ({self._process.returncode}): "
                    f"{self.said()[-1500:]}"
                )
            if time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"wanted {what} within {_WAIT_S:g} s: {self.said()[-1500:]}")
            self._look_for_rays()
            time.sleep(0.05)

    def _look_for_rays(self) -> None:
        for note in default_root().glob("*.driver"):
            try:
                if note.read_text().split()[:2] == ["process", str(self._process.pid)]:
                    self.rays.add(note.with_suffix(""))
            except OSError:
                continue  # it ended meanwhile


def environment(**changes: str) -> dict[str, str]:
    """Give the environment of a command that is run in another folder than the checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | changes | {"PYTHONPATH": path, "COLUMNS": "200"}
