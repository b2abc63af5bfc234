"""Trainers take turns, and one that cannot run is named with its reason."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.training.click_data import CRITEO_ROWS, NUM_DENSE, table_rows, write_batches
from benchmarks.training.machine import peak_of
from benchmarks.training.rates import rates, ratios, work
from benchmarks.training.turns import Trainer, Turns, train_in_turns

_STUB = """
import json, sys
print(json.dumps({"flops_per_step": 2000, "examples_per_step": 4}), flush=True)
for number, line in enumerate(sys.stdin):
    steps = json.loads(line)["steps"]
    if number == DIES_AT:
        sys.exit("out of luck")
    print(json.dumps({"examples": 4 * steps, "wall_s": STEP_S * steps, "cpu_s": steps,
                      "loss": 1.0, "peak_bytes": 5_000_000}), flush=True)
"""


def _stub(step_s: float, *, dies_at: int = -1) -> Trainer:
    program = _STUB.replace("STEP_S", str(step_s)).replace("DIES_AT", str(dies_at))
    return Trainer(command=[sys.executable, "-c", program], settings={"dtype": "float32"})


def test_all_take_the_same_steps_and_the_reason_of_a_failure_is_kept() -> None:
    turns, failed = train_in_turns(
        {"fast": _stub(0.1), "slow": _stub(0.4), "dies": _stub(0.2, dies_at=3),
         "absent": Trainer(command=[sys.executable, "-c", "import no_such_peer"], settings={})},
        rounds=3, turn_s=2.0, seed=1,
    )  # fmt: skip
    assert set(turns) == {"fast", "slow"}
    assert turns["fast"].examples == turns["slow"].examples == [40, 40, 40]  # 10 steps of 0.2 s
    assert "out of luck" in failed["dies"]
    assert "no_such_peer" in failed["absent"]


def _turns(wall_s: float, **more: float) -> Turns:
    ready = {"flops_per_step": 10**9, "examples_per_step": 10, **more}
    return Turns(
        ready=ready, examples=[100] * 3, wall_s=[wall_s] * 3, cpu_s=[2 * wall_s] * 3, loss=[0.5] * 3
    )


def test_rates_ratios_and_shares_are_those_computed_by_hand() -> None:
    turns = {"ours": _turns(0.5, bytes_per_step=10**9), "theirs": _turns(1.0)}
    found = rates(turns, seed=1)
    assert found["ours"]["examples_per_wall_s"] == {"median": 200.0, "low": 200.0, "high": 200.0}
    assert found["theirs"]["examples_per_cpu_s"]["median"] == 50.0
    compared = ratios(turns, {"ours": "theirs", "ours bfloat16": "theirs"}, seed=1)
    assert set(compared) == {"ours / theirs"}
    assert compared["ours / theirs"]["wall"]["ratio"] == 2.0
    machine = {"peak_tflops": {"float32": 0.1}, "memory_gb_s": 40.0}
    trainers = {name: Trainer(command=[], settings={"dtype": "float32"}) for name in turns}
    done = work(turns, trainers, machine)
    assert done["ours"]["tflop_per_s"] == 0.02  # 200 examples a second are 20 steps of 1 GFLOP
    assert done["ours"]["share_of_peak"] == 0.2
    assert done["ours"]["share_of_memory_rate"] == 0.5
    assert "share_of_memory_rate" not in done["theirs"]


def test_the_longest_name_that_fits_a_device_is_its_peak() -> None:
    h200, h100 = peak_of("NVIDIA H200"), peak_of("NVIDIA H100 80GB HBM3")
    assert h200 is not None and h200[2] == 4800.0
    assert h100 is not None and h100[2] == 3350.0
    assert peak_of("NVIDIA H100 PCIe") == (756.0, 378.0, 2000.0)
    assert peak_of("Something new") is None


def test_click_batches_are_seeded_zipf_and_within_their_tables(tmp_path: Path) -> None:
    rows = table_rows(1_000)
    assert len(rows) == len(CRITEO_ROWS) and max(rows) == 1_000
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        write_batches(path, rows, count=2, batch_size=500, seed=3)
    first, second = (np.load(path) for path in paths)
    for name in ("dense", "index", "chance"):
        assert np.array_equal(first[name], second[name])
    assert first["dense"].shape == (2, 500, NUM_DENSE)
    assert (first["index"].max(axis=(0, 1)) < rows).all() and first["index"].min() >= 0
    most = np.bincount(first["index"][:, :, 2].ravel()).max()
    assert most > 50  # a thousand draws of a thousand values: one value takes a tenth or more
    assert 0.1 < first["chance"].mean() < 0.5
