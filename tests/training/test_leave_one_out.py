"""The leave-one-out protocol: what is learned from, chosen by and tested, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.errors import InputError
from recsys.models.config import SequenceConfig
from training.checkpoint_files import FolderCheckpoints
from training.leave_one_out.command import main
from training.leave_one_out.protocol import HeldOut, quality_of
from training.leave_one_out.recipe import NextItemRecipe, debug
from training.leave_one_out.run import _train, run_seed
from training.leave_one_out.scorers import popular_scores
from training.leave_one_out.sequences import Sequences, read_attributes, read_sequences
from training.leave_one_out.steps import stretches
from training.loop import NoCheckpoints
from training.progress import Progress
from training.world import World

QUIET = Progress(quiet=True)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def circle(tmp_path: Path) -> Path:
    """Thirty items in a circle: after each comes the third one on."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(120):
        start, length = int(rng.integers(30)), int(rng.integers(4, 10))
        lines.append(f"{user} " + " ".join(str(100 + (start + 3 * i) % 30) for i in range(length)))
    return write(tmp_path / "circle.txt", *lines)


def recipe(**changes: object) -> NextItemRecipe:
    shape = SequenceConfig(max_length=8, dropout=0.1)
    return replace(debug(), model=shape, learning_rate=1e-2, **changes)


def test_identities_are_of_any_size_and_short_users_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "7 900000000000 5 900000000000 2", "", "1 5 2", "3 2 5 8")
    found = read_sequences(path)
    assert found.user_ids.tolist() == [7, 3] and found.num_too_short == 1
    assert found.item_ids.tolist() == [0, 2, 5, 8, 900000000000]
    assert found.until(2).values.tolist() == [4, 2, 1]
    assert found.until(2).offsets.tolist() == [0, 2, 3]
    assert found.last(2).tolist() == [4, 2] and found.last(1).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "found no users"),
        (["1 2 3"], "found 1 with fewer"),
        (["1 2 3 4", "2 5 x 7"], r"line 2: wanted whole numbers .* found '2 5 x 7'"),
        (["1 2 3 4", "2 1.5 3 4"], "line 2"),
        (["1 2 3 4", "1 5 6 7"], r"line 2: user 1 was on line 1 already"),
        (["1 2 3 99999999999999999999"], "line 1"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_sequences(write(tmp_path / "a.txt", *lines))


def test_attributes_of_other_items_are_passed_over_and_of_none_refused(tmp_path: Path) -> None:
    sequences = read_sequences(write(tmp_path / "a.txt", "1 10 20 30"))
    path = tmp_path / "attributes.json"
    path.write_text(json.dumps({"10": [4, 9], "30": [9, 9], "77": [1]}))
    found, num_without = read_attributes(path, sequences)
    assert num_without == 1 and found.num_attributes == 2
    assert found.values.tolist() == [0, 1, 1] and found.offsets.tolist() == [0, 0, 2, 2]
    path.write_text(json.dumps({"77": [1]}))
    with pytest.raises(InputError, match="none of the 3 items"):
        read_attributes(path, sequences)
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="--attributes: wanted JSON"):
        read_attributes(path, sequences)


def test_the_command_says_what_is_wrong_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path / "absent.txt"), "--quiet"]) == 2
    assert "wanted a text file of sequences" in capsys.readouterr().err


def test_every_event_but_the_first_is_predicted_once() -> None:
    offsets = np.array([0, 1, 8, 8, 10])
    begin, length = stretches(offsets, 3)
    assert length.max() <= 3
    targets = sorted(b + 1 + i for b, n in zip(begin, length, strict=True) for i in range(n))
    assert targets == [2, 3, 4, 5, 6, 7, 9]
    assert begin[0] + length[0] == 7  # the newest stretch ends with the newest event


def test_what_was_had_does_not_compete_and_ties_count_against_us(tmp_path: Path) -> None:
    sequences = read_sequences(write(tmp_path / "a.txt", "1 1 1 2 3", "2 1 3 4 2", "3 4 4 4 4"))
    last = HeldOut.of(sequences, 1)
    # Popular among what is learned from: item 1 three times, 3 once, 4 twice, 2 never.
    ranks = last.ranks(popular_scores(sequences.until(2), sequences.num_items))
    # User 1 had 1 and 2: 3 comes after 4. User 2 had 1, 3 and 4: 2 is alone. User 3 had 4.
    assert ranks.tolist() == [2, 1, 2]
    found = quality_of(ranks, rng=np.random.default_rng(0))
    assert found.mean("mrr") == pytest.approx(2 / 3)
    assert found.mean("ndcg@10") == pytest.approx((1 + 2 / np.log2(3)) / 3)


def test_the_circle_is_learned_and_the_second_opinion_never_hurts_the_choice(circle: Path) -> None:
    outcome = run_seed(
        read_sequences(circle), None, recipe(epochs=12, size=32), world=World(),
        checkpoints=NoCheckpoints(), progress=QUIET,
    )  # fmt: skip
    assert outcome.test["towers"].mean("recall@5") > 0.9
    assert outcome.test["popular"].mean("recall@5") < 0.5
    chosen = outcome.validation
    assert chosen["fused"].mean("ndcg@10") >= chosen["towers"].mean("ndcg@10") - 1e-9
    assert set(outcome.test) == {"fused", "towers", "item_knn", "ease", "popular"}


@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce", "binary"])
def test_each_sampled_loss_learns(circle: Path, loss: str) -> None:
    changes = {"epochs": 20, "size": 32, "batch_users": 8, "num_negatives": 20, "loss": loss}
    outcome = run_seed(
        read_sequences(circle), None, recipe(**changes), world=World(),
        checkpoints=NoCheckpoints(), progress=QUIET, with_baselines=False,
    )  # fmt: skip
    assert outcome.test["towers"].mean("recall@10") > 0.6


def trained(path: Path, checkpoints: object = None, **changes: object) -> dict[str, torch.Tensor]:
    sequences: Sequences = read_sequences(path)
    model, _, _ = _train(
        sequences, None, recipe(**changes), HeldOut.of(sequences, 2), World(),
        checkpoints or NoCheckpoints(), QUIET,
    )  # fmt: skip
    return model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_other_last_events_change_no_weight(circle: Path, tmp_path: Path) -> None:
    lines = [line.split() for line in circle.read_text().splitlines()]
    turned = [[*line[:-1], lines[-1 - i][-1]] for i, line in enumerate(lines)]
    other = write(tmp_path / "other.txt", *(" ".join(line) for line in turned))
    assert other.read_text() != circle.read_text()
    assert same(trained(circle, epochs=3), trained(other, epochs=3))


class KilledError(Exception):
    """The process is gone."""


def killed_after(number: int, folder: Path) -> Callable[[], FolderCheckpoints]:
    class Mortal(FolderCheckpoints):
        saved = 0

        def save(self, state, metrics):
            super().save(state, metrics)
            type(self).saved += 1
            if type(self).saved == number:
                raise KilledError

    return lambda: Mortal(folder)


def test_a_killed_run_goes_on_to_the_same_weights(circle: Path, tmp_path: Path) -> None:
    whole = trained(circle, epochs=4)
    checkpoints = killed_after(2, tmp_path / "kept")
    with pytest.raises(KilledError):
        trained(circle, checkpoints(), epochs=4)
    assert same(whole, trained(circle, FolderCheckpoints(tmp_path / "kept"), epochs=4))
