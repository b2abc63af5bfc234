"""Collaborative filtering beside the peers: what peers' models score is what their factors say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.training.collaborative import main
from benchmarks.training.collaborative_jobs import ALGORITHMS, peer_scores, write_pairs
from recsys.features.batch import Ragged

HISTORIES = Ragged(np.array([1, 3, 2], dtype=np.int64), np.array([0, 2, 3], dtype=np.int64))
"""Two users: items 1 and 3, and item 2, of 4 items."""


def test_pairs_are_written_once_and_from_0(tmp_path: Path) -> None:
    twice = Ragged(np.array([2, 2, 4, 1], dtype=np.int64), np.array([0, 3, 4], dtype=np.int64))
    write_pairs(tmp_path, twice, 4)
    found = np.load(tmp_path / "past.npz")
    assert found["user"].tolist() == [0, 0, 1]
    assert found["item"].tolist() == [1, 3, 0]
    assert found["shape"].tolist() == [2, 4]


def test_factors_score_items_behind_the_padding_column(tmp_path: Path) -> None:
    users = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    items = np.array([[1, 5], [2, 6], [3, 7], [4, 8]], dtype=np.float32)
    bias = np.array([0, 0, 0, 10], dtype=np.float32)
    np.savez(tmp_path / "model.npz", users=users, items=items, item_bias=bias)
    scores = peer_scores(tmp_path, HISTORIES, 4)(np.array([1, 0]))
    assert scores.tolist() == [[0, 10, 12, 14, 26], [0, 1, 2, 3, 14]]


def test_neighbours_of_a_history_are_summed(tmp_path: Path) -> None:
    index = np.array([[1, 2], [0, 0], [1, 3], [0, 0]])  # from 0; a weight of 0 pads
    weight = np.array([[0.5, 0.25], [0.5, 0.0], [1.0, 0.125], [0.0, 0.0]], dtype=np.float32)
    np.savez(tmp_path / "model.npz", index=index, weight=weight)
    scores = peer_scores(tmp_path, HISTORIES, 4)(np.array([0, 1]))
    assert scores.tolist() == [[0, 0, 1.5, 0.25, 0.125], [0, 0.5, 0, 0, 0]]


def test_every_combination_of_settings_is_tried() -> None:
    tried = list(ALGORITHMS["implicit ALS"].settings())
    assert len(tried) == 8
    assert len({tuple(settings.items()) for settings in tried}) == 8


def test_a_missing_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "absent.txt"), "--algorithms", ""]) == 1
    assert "absent.txt" in capsys.readouterr().err


def test_settings_of_another_run_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, settings = tmp_path / "data.txt", tmp_path / "earlier.json"
    data.write_text("1 1 2 3\n")
    settings.write_text('{"settings": {"ours item-kNN": {}}}')
    assert main(["--data", str(data), "--algorithms", "", "--settings", str(settings)]) == 1
    assert "wanted what an earlier run printed" in capsys.readouterr().err
