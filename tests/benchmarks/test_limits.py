"""The limits are of real servers that answer, and the loops around them read all of it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.limits import __main__ as limits
from benchmarks.limits import arithmetic, http_echo
from benchmarks.limits.redis_rate import redis_limits


@pytest.mark.parametrize("kind", http_echo.KINDS)
def test_each_server_without_work_answers_the_generator(kind: str) -> None:
    with http_echo._server(kind) as (port, process):
        paced = http_echo._send(port, np.arange(20) / 400)
        assert paced.answers == {"200": 20}
    assert not process.is_running()


def test_redis_is_measured_and_an_absent_program_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.limits.redis_rate.shutil.which", lambda _name: None)
    found = redis_limits(0.01)
    assert min(found["raw pipelined socket loop"].values()) > 0
    assert found["redis-benchmark"]["not_run"].startswith("no redis-benchmark")


def test_products_count_an_operation_for_each_multiplication_and_addition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arithmetic, "SHAPES", {"one": (10, 20, 30)})
    monkeypatch.setattr(arithmetic, "best_seconds", lambda _run, _seconds: 1e-6)
    found = arithmetic.products_gflops(0.0, seed=1)
    assert found == {"float32, one": 12.0, "bfloat16, one": 12.0}


def test_its_parts_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        limits.main(["--help"])
    assert "--seconds" in capsys.readouterr().out
