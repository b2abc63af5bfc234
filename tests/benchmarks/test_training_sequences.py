"""Sequence benchmarks: the same examples on both sides, operations counted as torch counts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import sequence_task
from benchmarks.training.sequence_data import MIN_LENGTH, generate, read_beauty
from benchmarks.training.sequence_flops import step_flops
from recsys.errors import InputError

_SHAPE = {
    "embedding_size": 8, "inner_size": 32, "num_layers": 2, "num_heads": 2, "history_length": 6,
    "dropout": 0.0,
}  # fmt: skip


def _asked(path: Path, *, every_place: bool) -> dict[str, object]:
    return {
        "data": str(path), "shape": _SHAPE, "seed": 1, "batches": 1, "batch_size": 1_000,
        "dtype": "float32", "learning_rate": 1e-3, "every_place": every_place,
    }  # fmt: skip


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.npz"
    items, lengths = generate(num_users=40, num_items=30, mean_length=7.0, max_length=9, seed=2)
    np.savez(path, items=items, lengths=lengths)
    return path


def _pairs(path: Path, *, every_place: bool) -> list[tuple[tuple[int, ...], int]]:
    """Histories and what came next, read back from the task's one batch."""
    task = sequence_task.make(_asked(path, every_place=every_place), torch.device("cpu"))
    inputs, segment, _, place, target = task.batches[0]
    found = []
    for at, wanted in zip(place.tolist(), target.tolist(), strict=True):
        row, column = divmod(at, inputs.shape[1])
        mine = segment[row] == segment[row, column]
        history = inputs[row, : column + 1][mine[: column + 1]]
        found.append((tuple(history.tolist()), wanted))
    return sorted(found)


def test_both_ways_make_the_pairs_of_the_training_events(events: Path) -> None:
    data = np.load(events)
    wanted, begin = [], 0
    for length in data["lengths"].tolist():
        known = data["items"][begin : begin + length - 2].tolist()  # but for validation and test
        begin += length
        wanted += [(tuple(known[:n]), known[n]) for n in range(1, len(known))]
    assert _pairs(events, every_place=True) == sorted(wanted)
    assert _pairs(events, every_place=False) == sorted(wanted)


def test_a_long_history_keeps_its_newest_events() -> None:
    begin, length = sequence_task.stretches(np.array([12, 5]), longest=4, every_place=True)
    assert begin.tolist() == [5, 12] and length.tolist() == [4, 2]


def test_operations_are_those_torch_counts_where_no_place_is_padding(tmp_path: Path) -> None:
    path, users = tmp_path / "full.npz", 5
    items = np.arange(users * 9) % 20 + 1
    np.savez(path, items=items, lengths=np.full(users, 9))  # six inputs each: whole rows
    task = sequence_task.make(_asked(path, every_place=True), torch.device("cpu"))
    task.module.train()
    # The counter does not know the fused attention of CPUs; the plain one is matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task.loss(task.batches[0]).backward()
    sizes = {"embedding_size": 8, "num_layers": 2, "widening": 4}
    square = step_flops([6] * users, num_targets=30, num_items=20, is_causal=False, **sizes)
    assert counter.get_total_flops() == square
    assert task.more["useful_flops_per_step"] == step_flops(
        [6] * users, num_targets=30, num_items=20, **sizes
    )


def test_generated_events_are_seeded_and_hold_every_item() -> None:
    sizes = {"num_users": 200, "num_items": 90, "mean_length": 8.0, "max_length": 20}
    items, lengths = generate(**sizes, seed=5)
    again, _ = generate(**sizes, seed=5)
    assert np.array_equal(items, again)
    assert set(items.tolist()) == set(range(1, 91))
    assert lengths.min() >= MIN_LENGTH and lengths.max() <= 20 and lengths.sum() == len(items)
    assert abs(lengths.mean() - 8.0) < 1.0


def test_a_file_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "Beauty.txt"
    path.write_text("1 5 6 7 8 9\n2 5 six\n")
    with pytest.raises(InputError, match=r"Beauty.txt:2.*whole numbers"):
        read_beauty(path)
    path.write_text("1 5 6 7 8 9\n2 5 6\n")
    with pytest.raises(InputError, match=r":2.*5 events, found 2"):
        read_beauty(path)
