"""``python -m training.verify_resume``: does a killed run end as if it had not been killed?

Trains the made-up log on Ray Train with ``--workers`` (2), once undisturbed and once disturbed
again and again: a worker killed (SIGKILL), which Ray starts again; then the driver killed, and the
same command once more; then the driver killed and its newest checkpoint damaged, and the same
command once more. Each must go on from a checkpoint, the damage must be said, no process may be
left, and the end must have the loss curve and the weights of the undisturbed run, bit for bit.
Takes some minutes of two cores, so it is no unit test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from recsys.features import current_plan
from training.checkpoint_files import KEPT
from training.debug_bundle import OBJECTIVES, made_up_log
from training.examples.build import Place
from training.fit import Fitted
from training.prepare import prepare
from training.progress import Progress
from training.ray_folders import belonging_to, default_root
from training.ray_job import fit_on_ray
from training.recipes import debug

Epoch = tuple[str, int]
"""Phase and number."""
_WORKER_KILLED_AT: Epoch = ("towers", 2)
_DRIVER_KILLED_AT: Epoch = ("towers", 5)
_DAMAGED_AT: Epoch = ("ranker", 0)
_TOWERS_EPOCHS, _RANKER_EPOCHS = 8, 6
_WAIT_S = 600.0
_RESULT_FILE, _SAID_FILE = "result.pt", "said.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when the disturbed run ended like the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run is not None:
        _run(args.run, args.workers)
        return 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        began = time.monotonic()
        undisturbed = _Command(root / "undisturbed", args.workers)
        undisturbed.end()
        middle = time.monotonic()
        sys.stderr.write(f"undisturbed: {middle - began:.0f} s\n")
        held, last = _disturbed(root / "disturbed", args.workers)
        ended = time.monotonic()
        (wanted, every), (found, _) = undisturbed.result(), last.result()
    held |= {
        "same curve": found.curve == wanted.curve,
        "same weights": _same(found.ranker, wanted.ranker) and _same(found.towers, wanted.towers)
        and torch.equal(found.item_vectors, wanted.item_vectors),
    }  # fmt: skip
    told = {
        "passed": all(held.values()), **held, "workers": args.workers, "epochs": len(every),
        "undisturbed_s": round(middle - began), "disturbed_s": round(ended - middle),
    }  # fmt: skip
    sys.stdout.write(json.dumps(told) + "\n")
    return 0 if told["passed"] else 1


def _run(folder: Path, workers: int) -> None:
    """Prepare and fit in this process; what a user's command does."""
    plan = current_plan.ensure(folder.parent / "plan", project="recsys")
    base = debug()
    recipe = replace(
        base,
        towers=replace(base.towers, epochs=_TOWERS_EPOCHS),
        ranker=replace(base.ranker, epochs=_RANKER_EPOCHS),
    )
    prepared, _ = prepare(
        made_up_log(), plan, recipe, OBJECTIVES, test_from_ms=None, progress=Progress(quiet=True),
        examples=Place(root=folder / "examples"),
    )  # fmt: skip
    epochs: list[Epoch] = []
    fitted, _ = fit_on_ray(
        prepared, storage=folder, address=None, num_workers=workers, use_gpu=False,
        on_epoch=lambda phase, epoch, *_: epochs.append((phase, epoch)),
    )  # fmt: skip
    torch.save((fitted, epochs), folder / _RESULT_FILE)


def _disturbed(folder: Path, workers: int) -> tuple[dict[str, bool], _Command]:
    """Disturb a run; give what held meanwhile, and the command that ended it."""
    first = _Command(folder, workers)
    first.await_epoch(_WORKER_KILLED_AT)
    first.kill_worker()
    told = first.await_epoch(_DRIVER_KILLED_AT)
    first.kill()
    held = {"a killed worker went on": told.count(("towers", 0)) == 1}
    sys.stderr.write(f"after a worker was killed: {told}\n")

    second = _Command(folder, workers)
    told = second.await_epoch(_DAMAGED_AT)
    second.kill()
    held["a killed driver went on"] = ("towers", _WORKER_KILLED_AT[1]) not in told
    sys.stderr.write(f"after the driver was killed: {told}\n")

    time.sleep(3)  # what was being written when the driver died is written by then
    # All but the oldest of those that the next driver looks at; lives before left others.
    for path in sorted(folder.glob("fit-*/train/checkpoint_*/state.pt"))[-KEPT:]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    last = _Command(folder, workers)
    last.end()
    _, told = last.result()
    sys.stderr.write(f"after its newest checkpoint was damaged: {told}\n")
    held |= {
        "a damaged checkpoint was passed over": ("towers", _DRIVER_KILLED_AT[1]) not in told
        and len(told) < _TOWERS_EPOCHS + _RANKER_EPOCHS,
        "damage was said": "checkpoint damaged" in last.said()
        and "an earlier checkpoint is used" in last.said(),
        "no process is left": not any(
            belonging_to(ray) for command in (first, second, last) for ray in command.rays
        ),
        "nothing else is left": not list(folder.glob("fit-*")) and not any(
            ray.exists() or ray.with_suffix(".driver").exists()
            for command in (first, second, last) for ray in command.rays
        ),
    }  # fmt: skip
    return held, last


class _Command:
    """A run's command in a process of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.rays: set[Path] = set()
        """Folders of the local Rays that were seen running."""
        command = [sys.executable, "-m", "training.verify_resume", "--workers", str(workers)]
        with (folder / _SAID_FILE).open("w") as said:
            self._process = subprocess.Popen([*command, "--run", str(folder)], stderr=said)

    def await_epoch(self, wanted: Epoch) -> list[Epoch]:
        """Wait until an epoch was told; give all that were."""
        self._wait(lambda: wanted in self._told(), f"epoch {wanted}")
        return self._told()

    def end(self) -> None:
        """Wait until the run is whole."""
        self._wait(lambda: self._process.poll() is not None, "the end")
        self._process.wait()

    def kill(self) -> None:
        """Kill the driver."""
        self._process.kill()
        self._process.wait()

    def kill_worker(self) -> None:
        """Kill one of Ray's training workers."""
        every = [process for ray in self.rays for process in belonging_to(ray)]
        next(process for process in every if _is_worker(process)).kill()

    def result(self) -> tuple[Fitted, list[Epoch]]:
        """Give what the run learned, and the epochs this command did for it."""
        fitted, epochs = torch.load(self._folder / _RESULT_FILE, weights_only=False)
        return fitted, epochs

    def said(self) -> str:
        """Give the command's standard error."""
        return (self._folder / _SAID_FILE).read_text()

    def _told(self) -> list[Epoch]:
        if not self.rays:
            return []  # what is there is an earlier command's
        lines = [
            json.loads(line)
            for path in self._folder.glob("fit-*/progress.jsonl")
            for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        return [(line[0], line[1]) for line in lines if isinstance(line, list)]

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _WAIT_S
        while not done():
            failed = self._process.poll() not in (None, 0)
            if failed or time.monotonic() > until:
                self.kill()
                raise SystemExit(f"wanted {what}, found that the run failed:\n{self.said()}")
            for note in default_root().glob("*.driver"):
                self._note(note)
            time.sleep(0.05)
        if self._process.poll() not in (None, 0):
            raise SystemExit(f"the run failed:\n{self.said()}")

    def _note(self, path: Path) -> None:
        try:
            words = path.read_text().split()
        except OSError:
            return  # it ended meanwhile
        ray = path.with_suffix("")
        if words[:2] == ["process", str(self._process.pid)] and ray not in self.rays:
            self.rays.add(ray)
            # Workers of a killed driver are ended by then, by its keeper or this command.
            for left in self._folder.glob("fit-*/progress.jsonl"):
                left.unlink(missing_ok=True)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )


if __name__ == "__main__":
    sys.exit(main())
