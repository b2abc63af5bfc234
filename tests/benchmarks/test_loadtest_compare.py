"""A verdict that knows noise: seen where it is large, not seen in it, none from too few repeats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks.loadtest.__main__ import main
from benchmarks.loadtest.compare import compare
from benchmarks.loadtest.ratio import bootstrap_percentile_ratio, bootstrap_ratio
from benchmarks.loadtest.result import Repeat, Result, encode
from recsys.errors import InputError
from tests.benchmarks.test_loadtest_page import result, step


def measured(latencies_ms: list[float], rate: float = 100.0) -> Result:
    """A result with a repeat for each of these latencies."""
    repeats = [Repeat(seed=n, steps=[step(rate, ms)]) for n, ms in enumerate(latencies_ms)]
    return replace(result(*repeats, searched=False), objective="")


def test_equal_services_are_called_different_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(1)
    for repeats in (4, 5, 8):
        wrong = 0
        for trial in range(200):
            a, b = np.exp(rng.normal(0.0, 0.1, size=(2, repeats)))
            found = bootstrap_ratio(a.tolist(), b.tolist(), seed=trial)
            wrong += found.is_more or found.is_less
        assert wrong / 200 <= 0.075, f"{repeats} repeats: {wrong} of 200"


def test_a_difference_well_beyond_the_noise_is_seen() -> None:
    rng = np.random.default_rng(2)
    seen = 0
    for trial in range(100):
        a = np.exp(rng.normal(0.0, 0.04, size=5))
        b = 1.25 * np.exp(rng.normal(0.0, 0.04, size=5))
        found = bootstrap_ratio(a.tolist(), b.tolist(), seed=trial)
        seen += found.is_more
        assert found.low <= found.ratio <= found.high
    assert seen >= 95


def test_a_percentile_of_blocks_is_more_only_beyond_the_noise_of_blocks() -> None:
    rng = np.random.default_rng(3)

    def blocks(count: int, scale: float) -> list[np.ndarray]:
        hour = scale * np.exp(rng.normal(0.0, 0.1, size=count))  # what a block's values share
        return [level * rng.exponential(size=60) for level in hour]

    wrong = seen = 0
    for trial in range(8):
        a, b, slow = blocks(6, 1.0), blocks(20, 1.0), blocks(20, 2.0)
        same = bootstrap_percentile_ratio(a, b, 99.0, seed=trial)
        wrong += same.is_more or same.is_less
        more = bootstrap_percentile_ratio(a, slow, 99.0, seed=trial)
        seen += more.is_more and more.low <= more.ratio <= more.high
        whole = [np.percentile(np.concatenate(x), 99.0, method="higher") for x in (a, b)]
        assert same.ratio == pytest.approx(whole[1] / whole[0])
    assert wrong <= 1 and seen >= 7
    few = bootstrap_percentile_ratio(blocks(3, 1.0), blocks(20, 1.0), 99.0)
    assert np.isfinite(few.ratio) and np.isnan(few.low)
    lost = bootstrap_percentile_ratio(a, [np.full(9, np.inf)] * 5, 99.0)
    assert lost.ratio == np.inf, "who was never answered waited for ever"


def test_the_verdict_rests_on_the_interval() -> None:
    a = measured([20.0, 21.0, 19.0, 20.5])
    slower = compare([a], [measured([30.0, 31.0, 29.0, 30.5])])
    assert slower.verdict == "slower" and "p99 at 100/s: B / A = 1.4" in slower.why
    assert slower.figures[0].name == "p99 at 100/s"
    assert compare([measured([30.0, 31.0, 29.0, 30.5])], [a]).verdict == "faster"
    assert compare([a], [measured([19.5, 21.5, 18.0, 22.0])]).verdict == "no difference seen"
    few = compare([a], [measured([30.0, 31.0, 29.0])])
    assert few.verdict == "no verdict" and "found 4 and 3; measure with --repeats" in few.why
    # Repeats of several files are put together.
    parts = [measured([30.0, 31.0]), measured([29.0, 30.5])]
    assert compare([a], parts).verdict == "slower"


def test_a_search_is_judged_by_its_rates_and_higher_is_better() -> None:
    def found(rates: list[float | None]) -> Result:
        return result(*(Repeat(seed=n, steps=[], greatest_rate=r) for n, r in enumerate(rates)))

    a = found([100.0, 104.0, 98.0, 101.0])
    assert compare([a], [found([150.0, 155.0, 148.0, 151.0])]).verdict == "faster"
    assert compare([found([150.0, 155.0, 148.0, 151.0])], [a]).verdict == "slower"
    unsure = compare([a], [found([150.0, None, 148.0, 151.0])])
    assert unsure.verdict == "no verdict", "a repeat in which no rate held has no figure"


def test_who_answers_quickly_with_errors_is_not_faster() -> None:
    a, b = measured([20.0] * 4), measured([2.0] * 4)
    failing = [
        Repeat(seed=r.seed, steps=[replace(r.steps[0], errors=0.5)]) for r in b.repeats
    ]  # fmt: skip
    found = compare([a], [replace(b, repeats=failing)])
    assert found.verdict == "slower" and found.why == "B fails more: 50.00 % beside 0.00 %"


def test_what_was_measured_otherwise_is_said_or_refused() -> None:
    a = measured([20.0] * 4)
    (note,) = compare([a], [replace(a, mix={"rank": 1.0})]).notes
    assert note == "not measured alike: mix: {'recommend': 1.0} and {'rank': 1.0}"
    with pytest.raises(InputError, match=r"a rate that both measured, found \[100.0\] and \[50.0"):
        compare([a], [measured([20.0] * 4, rate=50.0)])
    with pytest.raises(InputError, match=r"a search .* in all results or in none"):
        compare([a], [result(Repeat(seed=0, steps=[], greatest_rate=1.0))])
    with pytest.raises(InputError, match=r"--by: wanted one of p50, .*found 'p42'"):
        compare([a], [a], by="p42")


def test_the_command_reads_files_and_folders_and_fails_when_b_is_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b"
    b.mkdir()
    a.write_bytes(encode(measured([20.0, 21.0, 19.0, 20.5])))
    for n, latencies in enumerate(([30.0, 31.0], [29.0, 30.5])):
        (b / f"{n}.json").write_bytes(encode(measured(latencies)))
    assert main(["compare", str(a), str(b)]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "slower"
    assert main(["compare", str(b), str(a)]) == 0
    assert main(["compare", str(a), str(a)]) == 0
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="found none"):
        main(["compare", str(a), str(tmp_path / "none")])
