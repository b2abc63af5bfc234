"""The gate's judgement: noise passes, a kernel that is half as slow again does not."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import __main__ as gate
from benchmarks.gate import baseline
from benchmarks.gate.cases import cases
from benchmarks.gate.judge import judge, tolerance
from benchmarks.gate.measure import slowed
from recsys.errors import InputError

_VERSIONS = {"numpy": "2"}


def _repeats(count: int, *, spread: float, of: float = 1.0, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0.0, spread, count)
    return (of * np.exp(noise)).tolist()


@pytest.mark.parametrize("spread", [0.005, 0.02, 0.08])
def test_repeats_of_the_same_code_are_hardly_ever_a_regression(spread: float) -> None:
    base = _repeats(20, spread=spread, seed=99)
    verdicts = [judge("a", base, _repeats(5, spread=spread, seed=n)) for n in range(40)]
    assert not any(verdict.is_regression for verdict in verdicts)


@pytest.mark.parametrize("spread", [0.005, 0.02, 0.08])
def test_half_as_slow_again_is_a_regression(spread: float) -> None:
    base = _repeats(20, spread=spread, seed=99)
    for n in range(20):
        assert judge("a", base, _repeats(5, spread=spread, of=1.5, seed=n)).is_regression


def test_what_is_faster_passes() -> None:
    base = _repeats(20, spread=0.02)
    assert not judge("a", base, _repeats(5, spread=0.02, of=0.5, seed=1)).looks_slower


def test_noisier_repeats_are_given_more_tolerance_and_more_of_them_less() -> None:
    quiet, noisy = _repeats(20, spread=0.02), _repeats(20, spread=0.1)
    assert 1.05 <= tolerance(quiet, 5) < tolerance(noisy, 5) < 1.4
    assert tolerance(noisy, 20) < tolerance(noisy, 5)


@pytest.mark.parametrize(("known", "now"), [(7, 5), (8, 3)])
def test_too_few_repeats_say_nothing_of_the_noise(known: int, now: int) -> None:
    with pytest.raises(InputError, match="wanted 8 repeats in the baseline and 4 now"):
        judge("a", [1.0] * known, [1.0] * now)


def test_the_committed_baseline_has_every_case_with_repeats_enough() -> None:
    names = {case.name for case in cases(1)}
    known = baseline.load().processors
    assert known
    for repeats in known.values():
        assert set(repeats.ratios) == names
        for name, ratios in repeats.ratios.items():
            assert not judge(name, ratios, ratios).is_regression
            assert tolerance(ratios, 5) < 1.4, f"{name}: half as slow again would be overlooked"


def test_repeats_are_added_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    for n in range(baseline.MOST + 3):
        baseline.add({"a": 1.0 + n}, processor="x", date=f"{n}", versions=_VERSIONS, path=path)
    known = baseline.load(path).processors["x"]
    assert known.ratios["a"] == [1.0 + n for n in range(3, baseline.MOST + 3)]
    assert known.dates[0] == "3"


@pytest.mark.parametrize(
    ("repeat", "versions"), [({"a": 1.0, "b": 1.0}, _VERSIONS), ({"a": 1.0}, {"numpy": "3"})]
)
def test_other_cases_or_versions_begin_anew(
    tmp_path: Path, repeat: dict[str, float], versions: dict[str, str]
) -> None:
    path = tmp_path / "baseline.json"
    baseline.add({"a": 2.0}, processor="x", date="1", versions=_VERSIONS, path=path)
    baseline.add(repeat, processor="x", date="2", versions=versions, path=path)
    assert baseline.load(path).processors["x"].dates == ["2"]


def _gate(
    path: Path, monkeypatch: pytest.MonkeyPatch, factors: list[float], known: int = 12
) -> int:
    """Run the gate on repeats of the given factors, the first of each look."""
    for n in range(known):
        baseline.add(
            {"a": 1.0 + 0.001 * n, "b": 2.0 + 0.001 * n}, processor="chip", date="d",
            versions={}, path=path,
        )  # fmt: skip
    left = iter(factors)
    monkeypatch.setattr(gate.machine, "processor", lambda: "chip")
    monkeypatch.setattr(gate, "_versions", dict)
    monkeypatch.setattr(gate, "measure", lambda *_: {"a": next(left), "b": 2.0})
    return gate.main(["--baseline", str(path)])


def test_a_slower_kernel_fails_the_gate_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gate(tmp_path / "b.json", monkeypatch, [1.5] * 10) == 1
    said = capsys.readouterr()
    assert '"slower": ["a"]' in said.out
    assert [line.split()[:2] for line in said.err.splitlines()] == [["SLOWER", "a"], ["ok", "b"]]


def test_what_was_slow_once_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A neighbour took the machine during the first look."""
    assert _gate(tmp_path / "b.json", monkeypatch, [1.2] * 5 + [1.0] * 5) == 0
    assert '"looked_twice": true' in capsys.readouterr().out


def test_another_processor_is_held_against_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate.main(["--baseline", str(tmp_path / "none.json")]) == 0
    assert "nothing is held" in capsys.readouterr().err


def test_a_damaged_baseline_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "baseline.json"
    path.write_text("{")
    assert gate.main(["--baseline", str(path)]) == 2
    assert "take it from git again" in capsys.readouterr().err


def test_a_base_that_is_no_commit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main(["--base", "no-such-commit"]) == 2
    assert "--base: wanted a commit, found 'no-such-commit'" in capsys.readouterr().err


def test_ways_of_one_case_do_the_work_they_are_compared_for() -> None:
    for case in cases(1):
        assert case.ours() is not None or case.name.startswith("a cross"), case.name
        case.reference()


def test_a_slowed_call_takes_as_much_longer() -> None:
    def work() -> str:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return "done"

    start = time.process_time()
    assert slowed(work, 3.0)() == "done"
    assert time.process_time() - start >= 0.06
