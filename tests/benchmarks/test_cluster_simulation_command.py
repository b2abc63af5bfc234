"""``recsys capacity simulate`` as a person uses it, and the profile that is kept with it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from benchmarks.capacity.simulation.__main__ import main
from benchmarks.capacity.simulation.calibrate import calibrate
from benchmarks.capacity.simulation.measured import read
from benchmarks.capacity.simulation.page import prediction_page
from benchmarks.capacity.simulation.prediction import predict
from benchmarks.capacity.simulation.profile import PROFILES, read_profile
from benchmarks.capacity.simulation.report import Simulated
from benchmarks.loadtest.result import merged

MEASURED = PROFILES.parent / "measurements" / "two-cores.json"


def test_a_failure_is_cut_into_before_away_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    given = ["--api", "2", "--model-servers", "2", "--rate", "80", "--duration", "12",
             "--warmup", "2", "--fail-node", "5:3", "--html", str(page)]  # fmt: skip
    assert main(given) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=Simulated)
    (rate,) = found.rates
    assert [s.name for s in rate.stretches] == ["before", "model-1 away", "model-1 back"]
    assert [s.begin_s for s in rate.stretches] == [2.0, 5.0, 8.0]
    assert sum(s.sent for s in rate.stretches) == rate.sent == sum(rate.answers.values())
    assert merged([rate.histogram]).get_total_count() == rate.sent
    assert rate.stretches[0].answers == {"200 full": rate.stretches[0].sent}
    assert [row.at_s for row in rate.seconds] == list(range(2, 12))
    text = page.read_text()
    assert "model-1 away" in text and "<svg" in text and "profile" in text


def test_the_greatest_rate_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--one-machine", "--rate", "300", "--p99", "60", "--duration", "6", "--warmup", "1"]
    assert main(given) == 0
    found = json.loads(capsys.readouterr().out)
    kept = {rate["rate"] for rate in found["rates"] if rate["latency_ms"]["p99"] <= 60}
    assert found["greatest_rate"] in kept
    assert len(found["rates"]) > 2


@pytest.mark.parametrize(("given", "said"), [
    (["--rate", "many"], "requests a second"),
    (["--profile", "nobody"], "two-cores"),
    (["--fail-node", "1:1:model-7"], "model-1"),
    (["--api", "0"], "at least 1"),
    (["--duration", "3"], "--warmup"),
    (["calibrate", "missing.json", "--name", "x", "--output", "x.json"], "missing.json"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_a_line(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 2
    assert said in capsys.readouterr().err


def test_the_kept_profile_is_what_its_measurement_gives() -> None:
    assert calibrate(read(MEASURED), name="two-cores") == read_profile("two-cores")


def test_the_measured_curve_is_predicted_as_well_as_the_docs_say() -> None:
    """Rates that no figure of the profile comes from: medians, batches and CPU, not the tail."""
    measured = read(MEASURED)
    held_out = [rate for rate in measured.curve if rate.rate in (150.0, 200.0, 300.0)]
    assert held_out
    points = predict(
        read_profile("two-cores"), msgspec.structs.replace(measured, curve=held_out),
        duration_s=10.0, seed=1, say=lambda _: None,
    )  # fmt: skip
    for point in points:
        assert abs(point.error("p50")) < 0.2, point
        assert -0.45 < point.error("p99") < 0.2, point
        assert point.simulated_users_a_call == pytest.approx(point.measured_users_a_call, rel=0.2)
        assert point.simulated_cpu_ms == pytest.approx(point.measured_cpu_ms, rel=0.2)
    assert "<svg" in prediction_page(points, profile="two-cores", of="here", made_of="figures")
