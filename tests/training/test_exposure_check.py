"""What checks on exposures share: every seed is run and said, and the ending tells what it was."""

from __future__ import annotations

import json

import polars as pl
import pytest

from recsys.data.vocabulary import Vocabulary
from recsys.errors import InputError
from training.exposure_check import Findings, OneSeed, run_check, shown_often
from training.progress import Progress


@pytest.mark.parametrize(("seeds", "wanted"), [(None, [7, 8, 9]), ([8], [8]), ([1, 2], [1, 2])])
def test_one_seed_that_falls_short_fails_the_check_and_all_are_said(capsys, seeds, wanted) -> None:
    def begin(found: Findings) -> OneSeed:
        found["other"] = 1
        return lambda seed: ({"value": seed}, ["wanted more"] if seed == 8 else [])

    code = run_check("check", seeds, Progress(quiet=True), begin)
    out, err = capsys.readouterr()
    said = json.loads(out.splitlines()[-1])
    assert code == (1 if 8 in wanted else 0) and said["passed"] == (8 not in wanted)
    assert list(said["found"]) == ["other", *(f"seed {seed}" for seed in wanted)]
    assert [said["found"][f"seed {seed}"]["value"] for seed in wanted] == wanted
    assert said["missed"] == (["seed 8, wanted more"] if 8 in wanted else [])
    assert ("seed 8, wanted more" in err) == (8 in wanted)


def test_a_check_that_cannot_be_run_says_why(capsys) -> None:
    def begin(found: Findings) -> OneSeed:
        raise InputError("wanted a file, found none")

    assert run_check("check", None, Progress(quiet=True), begin) == 2
    assert capsys.readouterr().err == "check: wanted a file, found none\n"


def test_only_what_was_shown_five_times_gets_a_row_of_its_own() -> None:
    shown = pl.Series("item_id", ["a"] * 5 + ["b"] * 4 + ["gone"] * 9)
    vocabulary = Vocabulary(("a", "b", "c"), ())
    assert shown_often(shown, vocabulary).tolist() == [False, True, False, False]
