"""What a killed driver's local Ray left is ended, by its keeper or by the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys.errors import ConfigurationError
from training.checkpoint_files import write_state
from training.ray_checkpoints import RayCheckpoints, begin_run
from training.ray_folders import belonging_to, default_root, end_orphans, local_folder
from training.ray_start import _Signals

ROOT = Path(__file__).resolve().parents[2]
_DRIVER = """
import subprocess, sys, time
from pathlib import Path
from training.ray_folders import local_folder
with local_folder(Path(sys.argv[1])) as folder:
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    print(left.pid, flush=True)
    time.sleep(60)
"""


def driver(root: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a driver; give it and the process that stands for its Ray."""
    process = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def gone(root: Path, *, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if [path.name for path in root.iterdir()] == [".lock"]:
            return True
        time.sleep(0.05)
    return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_keeper_of_a_killed_driver_ends_its_ray_and_lets_a_living_one_be(tmp_path) -> None:
    killed, left_of_killed = driver(tmp_path)
    living, left_of_living = driver(tmp_path)
    try:
        assert end_orphans(tmp_path) == 0
        killed.kill()
        killed.wait()
        until = time.monotonic() + 20
        while is_alive(left_of_killed) and time.monotonic() < until:
            time.sleep(0.05)
        assert not is_alive(left_of_killed) and is_alive(left_of_living)
        living.terminate()
        living.wait()
        assert gone(tmp_path, within_s=20) and not is_alive(left_of_living)
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()


def test_with_its_keeper_killed_too_the_next_start_ends_it(tmp_path) -> None:
    process, left = driver(tmp_path)
    (keeper,) = [
        p for p in belonging_to(tmp_path) if "training.ray_keeper" in p.cmdline()
    ]  # fmt: skip
    keeper.suspend()
    process.kill()
    process.communicate()
    keeper.kill()
    time.sleep(0.1)
    assert is_alive(left)
    with local_folder(tmp_path) as mine:
        assert mine.is_dir() and not is_alive(left)
        assert len(list(tmp_path.glob("*.driver"))) == 1
    assert gone(tmp_path, within_s=5)


def test_somebody_else_s_folder_is_not_used(tmp_path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigurationError, match="TMPDIR"), local_folder(tmp_path / "root"):
        pass
    assert str(os.getuid()) in default_root().name


def test_signals_are_handled_as_before_ray_and_what_they_raise_is_kept() -> None:
    def stop(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        signals = _Signals()
        signal.signal(signal.SIGTERM, lambda *_: None)  # as ray.init does
        signals.take_back()
        with pytest.raises(SystemExit) as raised:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        assert signals.raised is raised.value and raised.value.code == 143
        signals.put_back()
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_new_driver_finds_the_newest_whole_checkpoint_whatever_ray_s_list_says(tmp_path) -> None:
    for number in range(5):
        folder = tmp_path / f"checkpoint_{number:07d}"
        folder.mkdir()
        write_state(folder, {"epoch": number})
    (tmp_path / "checkpoint_0000004" / "state.sha256").unlink()  # killed while it was copied
    (tmp_path / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_re')
    begin_run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"checkpoint_{number:07d}" for number in (2, 3, 4)
    ]
    assert RayCheckpoints(tmp_path, 0).latest() == {"epoch": 3}
    assert RayCheckpoints(tmp_path / "none", 0).latest() is None
