"""What a run on Ray tells its driver. `make verify-resume` runs one, and kills it."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import pytest

from training.checkpoint_files import STATE_FILE, newest_whole, write_state
from training.ray_job import _ToDriver, _told
from training.ray_start import _WithoutRay


def test_the_driver_repeats_what_a_worker_warns_of_and_every_whole_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_state(folder, {"epoch": 1})
    data = bytearray((folder / STATE_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / STATE_FILE).write_bytes(data)
    progress = tmp_path / "progress.jsonl"
    of_worker = logging.getLogger("training.checkpoint_files")
    handler = _ToDriver(progress)
    epochs: list[tuple[object, ...]] = []
    with _told(progress, lambda *told: epochs.append(told)):
        of_worker.addHandler(handler)
        try:
            assert newest_whole([folder]) is None
        finally:
            of_worker.removeHandler(handler)
        with progress.open("a") as file:
            file.write('["towers", 0, 2, 1.5]\n["towers", 1')  # half written when it is read
    assert epochs == [("towers", 0, 2, 1.5)]
    said = [record for record in caplog.records if record.name == "training.ray_job"]
    assert ["damaged" in said[0].message, "begins anew" in said[1].message] == [True, True]
    assert said[0].__dict__["folder"] == str(folder)


def test_what_ray_prints_is_no_part_of_a_commands_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stdout = _WithoutRay(sys.stdout)
    for name in ("ray_listen_error_messages", "training-progress"):
        thread = threading.Thread(target=print, args=(name,), kwargs={"file": stdout}, name=name)
        thread.start()
        thread.join()
    said = capsys.readouterr()
    assert (said.out, said.err) == ("training-progress\n", "ray_listen_error_messages\n")
