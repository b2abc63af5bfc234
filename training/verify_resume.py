"""``python -m training.verify_resume``: does a killed run end as if it had not been killed?

Trains the made-up log on Ray Train four times, with ``--workers`` (2): undisturbed; a worker killed
(SIGKILL) after some epochs, which Ray starts again; the driver killed, and the same command once
more; the driver killed, its newest checkpoint damaged, and the same command once more. Each must
give the loss curve and the weights of the first, bit for bit, and leave no process behind. Takes
some minutes of two cores, so it is no unit test.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
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
from training.debug_bundle import OBJECTIVES, made_up_log
from training.examples.build import Place
from training.prepare import prepare
from training.progress import Progress
from training.ray_job import fit_on_ray
from training.ray_start import belonging_to
from training.recipes import debug

_EPOCHS = 12
_WAIT_S = 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when every run ended like the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run is not None:
        _run(args.run, args.workers)
        return 0
    told: dict[str, Any] = {"workers": args.workers}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _whole(root / "undisturbed", args.workers)
        wanted = _result(root / "undisturbed")
        told["epochs"] = len(wanted["curve"])
        for what, disturb in _DISTURBANCES.items():
            folder = root / what.replace(" ", "-")
            began = time.monotonic()
            rays = disturb(folder, args.workers)
            found = _result(folder)
            told[what] = {
                "same curve": found["curve"] == wanted["curve"],
                "same weights": all(
                    torch.equal(value, found["ranker"][key])
                    for key, value in wanted["ranker"].items()
                ) and torch.equal(found["item_vectors"], wanted["item_vectors"]),
                "processes left": sum(len(belonging_to(ray)) for ray in rays),
                "took_s": round(time.monotonic() - began),
            }  # fmt: skip
            sys.stderr.write(f"{what}: {told[what]}\n")
    told["passed"] = all(
        found["same curve"] and found["same weights"] and not found["processes left"]
        for found in told.values()
        if isinstance(found, dict)
    )
    sys.stdout.write(json.dumps(told) + "\n")
    return 0 if told["passed"] else 1


def _run(folder: Path, workers: int) -> None:
    """Prepare and fit in this process; what a user's command does."""
    plan = current_plan.ensure(folder.parent / "plan", project="recsys")
    base = debug()
    recipe = replace(base, towers=replace(base.towers, epochs=_EPOCHS))
    prepared, _ = prepare(
        made_up_log(), plan, recipe, OBJECTIVES, test_from_ms=None, progress=Progress(quiet=True),
        examples=Place(root=folder / "examples"),
    )  # fmt: skip
    fitted, _ = fit_on_ray(
        prepared, storage=folder, address=None, num_workers=workers, use_gpu=False,
        on_epoch=lambda phase, epoch, *_: sys.stderr.write(f"  {phase} {epoch}\n"),
    )  # fmt: skip
    torch.save(fitted, folder / "result.pt")


def _start(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "training.verify_resume", "--workers", str(workers)]
    return subprocess.Popen([*command, "--run", str(folder)])


def _whole(folder: Path, workers: int) -> None:
    if _start(folder, workers).wait() != 0:
        raise SystemExit(f"the run in {folder} failed")


def _kill_worker(folder: Path, workers: int) -> list[str]:
    driver = _start(folder, workers)
    rays = _await_epochs(folder, 4)
    worker = next(p for p in _family(driver.pid) if "RayTrainWorker" in " ".join(p.cmdline()))
    worker.kill()
    if driver.wait() != 0:
        raise SystemExit("the run whose worker was killed failed")
    return rays


def _kill_driver(folder: Path, workers: int) -> list[str]:
    driver = _start(folder, workers)
    rays = _await_epochs(folder, 4)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _whole(folder, workers)
    return rays


def _damage_checkpoint(folder: Path, workers: int) -> list[str]:
    driver = _start(folder, workers)
    rays = _await_epochs(folder, 5)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # what was being written when the driver died is written by then
    newest = max(folder.glob("fit-*/train/checkpoint_*/state.pt"), key=lambda p: p.parent.name)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    _whole(folder, workers)
    return rays


_DISTURBANCES: dict[str, Callable[[Path, int], list[str]]] = {
    "worker killed": _kill_worker,
    "driver killed": _kill_driver,
    "driver killed and checkpoint damaged": _damage_checkpoint,
}


def _await_epochs(folder: Path, wanted: int) -> list[str]:
    """Wait; give the folders of the local Ray that runs meanwhile."""
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        for path in folder.glob("fit-*/progress.jsonl"):
            if len(path.read_text().splitlines()) >= wanted:
                notes = folder.glob("ray-*.json")
                return [json.loads(note.read_bytes())["folder"] for note in notes]
        time.sleep(0.05)
    raise SystemExit(f"no {wanted} epochs within {_WAIT_S:.0f} s")


def _result(folder: Path) -> dict[str, Any]:
    fitted = torch.load(folder / "result.pt", weights_only=False)
    return {"curve": fitted.curve, "ranker": fitted.ranker, "item_vectors": fitted.item_vectors}


def _family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


if __name__ == "__main__":
    sys.exit(main())
