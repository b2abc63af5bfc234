"""The scaling study: its fits find what is known, its points survive whatever stops a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.capacity.__main__ import main
from benchmarks.capacity.scaling import kernels
from benchmarks.capacity.scaling.fit import fit_line, fit_power_law, non_negative
from benchmarks.capacity.scaling.points import PointFile, Task, measure_in_turn
from recsys.errors import InputError, ServerError


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.4])
@pytest.mark.parametrize("fixed", [0.0, 2.0])
def test_the_exponent_of_a_known_law_is_found_and_lies_in_its_interval(
    exponent: float, fixed: float
) -> None:
    rng = np.random.default_rng(int(exponent * 10 + fixed))
    x = np.repeat([1e4, 3e4, 1e5, 3e5, 1e6], 6)
    y = (fixed + 8.0 * (x / 1e6) ** exponent) * rng.lognormal(0.0, 0.04, len(x))
    law = fit_power_law(x, y, resamples=200)
    assert law.exponent == pytest.approx(exponent, abs=0.12)
    assert law.exponent_low is not None and law.exponent_high is not None
    assert law.exponent_low - 0.05 <= exponent <= law.exponent_high + 0.05
    assert law(2e5) == pytest.approx(fixed + 8.0 * 0.2**exponent, rel=0.06)
    assert law.is_measured_at(2e5) and not law.is_measured_at(1e7)


def test_one_disturbed_point_does_not_turn_the_curve() -> None:
    x = np.repeat([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], 4)
    y = 1.0 + 0.5 * x
    y[-1] *= 3.0
    law = fit_power_law(x, y)
    assert law.exponent == pytest.approx(1.0, abs=0.05)
    assert law(20.0) == pytest.approx(11.0, rel=0.03)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 1, 2], [1, 1, 2]), ([1, 2, 3], [1, 0, 2]), ([1, 2, 3], [1, float("nan"), 2])]
)
def test_points_that_no_law_can_be_fitted_to_are_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(InputError, match="wanted"):
        fit_power_law(x, y)


def test_weights_are_the_known_ones_and_never_negative() -> None:
    rng = np.random.default_rng(0)
    columns = rng.random((40, 3)) + 0.1
    wanted = np.array([2.0, 0.0, 5.0])
    np.testing.assert_allclose(fit_line(columns, columns @ wanted), wanted, atol=1e-6)
    found = non_negative(columns, columns @ np.array([2.0, -1.0, 5.0]))
    assert (found >= 0).all() and found[1] == 0


def _tasks(log: list[str], names: str, fails: str = "") -> list[Task]:
    def run(name: str) -> dict[str, float]:
        log.append(name)
        if name == fails:
            raise ServerError("it went away")
        return {"ms": 1.5}

    return [Task(name=n, settings={"of": n}, run=lambda n=n: run(n)) for n in names]  # type: ignore[misc]


def _measure(kept: PointFile, tasks: list[Task], repeats: int, minutes: float = 1.0) -> int:
    return measure_in_turn(
        "study", tasks, kept, lambda: 1.0, repeats=repeats, minutes=minutes, seed=0
    )


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    kept, log = PointFile(tmp_path / "points.jsonl"), []
    assert _measure(kept, _tasks(log, "abc"), repeats=1) == 0
    assert sorted(log) == ["a", "b", "c"]
    assert _measure(kept, _tasks(log, "abcd"), repeats=2) == 0
    assert sorted(log) == ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert [point.repeat for point in kept.read("study")].count(1) == 4
    assert _measure(kept, _tasks(log, "abcd"), repeats=2) == 0 and len(log) == 8


def test_a_line_cut_short_is_measured_again_and_spoils_no_other(tmp_path: Path) -> None:
    path, log = tmp_path / "points.jsonl", []
    kept = PointFile(path)
    _measure(kept, _tasks(log, "ab"), repeats=1)
    path.write_bytes(path.read_bytes()[:-20])
    assert len(kept.read()) == 1
    assert _measure(kept, _tasks(log, "ab"), repeats=1) == 0
    assert len(log) == 3 and len(kept.read()) == 2


def test_a_point_that_fails_leaves_the_others_and_is_tried_again(tmp_path: Path) -> None:
    kept, log = PointFile(tmp_path / "points.jsonl"), []
    assert _measure(kept, _tasks(log, "abc", fails="b"), repeats=1) == 1
    assert _measure(kept, _tasks(log, "abc"), repeats=1) == 0
    assert log.count("b") == 2 and len(log) == 4


def test_nothing_begins_after_its_time(tmp_path: Path) -> None:
    kept, log = PointFile(tmp_path / "points.jsonl"), []
    assert _measure(kept, _tasks(log, "abc"), repeats=2, minutes=0.0) == 6
    assert not log


def test_each_axis_moves_alone_around_the_base() -> None:
    for size in kernels.sizes():
        moved = [
            name
            for name in ("items", "candidates", "history", "features")
            if getattr(size, name) != getattr(kernels.BASE, name)
        ]
        assert len(moved) <= 1, size


def test_the_first_word_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and main(["--help"]) == 0
    assert "recsys capacity scaling" in capsys.readouterr().out
    assert main(["plam"]) == 2
    assert "wanted one of" in capsys.readouterr().err
