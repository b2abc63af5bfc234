"""Two workers learn what one does: in-batch negatives of both, tables spread, sparse gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.two_workers", str(folder), str(rank)],
            env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [worker.communicate(timeout=240)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    result: dict[str, Any] = torch.load(folder / "found.pt")
    return result


def close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("softmax", ["sampled", "full"])
def test_two_workers_with_half_a_batch_each_give_the_gradients_of_one(found, softmax) -> None:
    alone, both = found[softmax]
    assert len(alone) > 10 and any(float(g.abs().max()) > 1e-3 for g in alone.values())
    close(alone, both)


def test_two_workers_teach_a_ranker_what_one_does_however_their_lists_differ(found) -> None:
    alone, both = found["ranker"]
    assert len(alone) > 10 and any(float(g.abs().max()) > 1e-3 for g in alone.values())
    close(alone, both)


def test_gathered_rows_are_everybodys_and_gradients_come_back_to_their_owner(found) -> None:
    rows, gradient = found["gathered"]
    assert rows.tolist() == [[0, 0], [1, 1], [1, 1]]
    assert gradient.tolist() == [[0.0, 2.0]]  # both workers' losses have this row


@pytest.mark.parametrize("how", ["plain", "sparse", "clipped", "spread", "spread and clipped"])
def test_however_gradients_travel_two_workers_end_where_one_does(found, how: str) -> None:
    alone, both, rows = found[how]
    close(alone, both)
    assert rows == (32 if "spread" in how else 64)


def test_a_run_with_spread_tables_goes_on_from_its_checkpoint(found) -> None:
    close(found["spread"][1], found["resumed"])
