"""`recsys loadtest` as it is run: sender processes against a server whose answers are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loadtest.__main__ import main
from benchmarks.loadtest.result import encode, merged, read_result
from benchmarks.loadtest.senders import Senders, Sent
from benchmarks.loadtest.slo import parse_objective
from benchmarks.loadtest.summary import histogram_of, summarise
from recsys.errors import InputError, ServerError

BODY = '{"rung":"full","request_id":"r","items":[{"item_id":"a"},{"item_id":"b"}]}'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of one worker that takes 4 ms for each answer: 250 a second at most."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "benchmarks.loadtest.queue_server", "--service-ms", "4",
            "--body", BODY,
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def test_a_mixed_run_of_two_processes_counts_every_request_once(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "result.json"
    arguments = ["--url", url, "--rate", "80", "--duration", "1", "--warmup", "0.3"]
    mix = ["--mix", "recommend=6,events=2,similar=1,rank=1", "--processes", "2"]
    assert main([*arguments, *mix, "--output", str(output)]) == 0
    result = read_result(output)
    assert json.loads(capsys.readouterr().out)["schema"] == result.schema
    (step,) = result.steps()
    assert step.answers == {"200 full": step.sent}
    assert sum(kind.sent for kind in step.kinds.values()) == step.sent
    assert set(step.kinds) == {"recommend", "events", "similar", "rank"}
    assert sum(second.due for second in step.seconds) == step.sent
    assert len(step.generator_cores) == 2
    assert step.latency_ms["p50"] >= 4.0
    histogram = merged([step.histogram, step.histogram])
    assert histogram.get_total_count() == 2 * step.sent
    assert histogram.get_value_at_percentile(50) / 1e3 == pytest.approx(
        step.latency_ms["p50"], rel=0.05
    )


def test_the_search_gives_the_highest_rate_that_held_below_all_that_did_not(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--duration", "0.3", "--warmup", "0", "--tolerance", "3"]
    code = main(["--url", url, "--rate", "160", "--slo", "p75<30ms,errors<0.1%", *how])
    found = json.loads(capsys.readouterr().out)["repeats"][0]
    refused = min(step["rate"] for step in found["steps"] if step["missed"])
    held = [s["rate"] for s in found["steps"] if not s["missed"] and s["rate"] < refused]
    # How much a busy machine lets through is not for a test to say; that it is told truly is.
    assert found["greatest_rate"] == max(held, default=None)
    assert code == (0 if held else 1)
    assert max(held, default=0) < 1_000, "the server answers 250 a second"


def test_nobody_there_is_said_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    how = ["--rate", "20", "--duration", "0.3", "--warmup", "0"]
    assert main(["--url", "http://127.0.0.1:1", *how]) == 1
    (step,) = json.loads(capsys.readouterr().out)["repeats"][0]["steps"]
    assert step["errors"] == 1.0 and set(step["answers"]) == {
        "error: not connected (ConnectionRefusedError)"
    }
    assert step["latency_ms"]["p50"] == 5_000, "who waited in vain could have waited so long"


def test_wrong_words_are_refused_before_anything_is_sent() -> None:
    for argv in (
        ["--slo", "p99"],
        ["--rate", "0"],
        ["--rate", "5", "--profile", "ramp:1..9"],
        ["--profile", "up"],
        ["--mix", "events"],
    ):
        with pytest.raises(SystemExit):
            main(argv)
    for url in ("127.0.0.1:8080", "ftp://x", "http://x:port", "http://x/path"):
        with pytest.raises(InputError, match="wanted http://HOST:PORT"):
            main(["--url", url])


def test_objectives_are_read_and_judged() -> None:
    objective = parse_objective("p99 < 50ms, errors<=0.1%,degraded<0.5")
    assert objective.percentiles() == (99.0,)
    figures = {"p99": 50.0, "errors": 0.001, "degraded": 0.2}
    assert objective.missed(figures) == ["p99 50.0 ms"]
    assert objective.missed(figures | {"p99": 49.9}) == []
    assert parse_objective("p99.9<1s").clauses[0].bound == 1_000
    for wrong in ("p99<50", "errors<1ms", "p0<1ms", "p101<1ms", "speed<1ms", "p99>50ms", ""):
        with pytest.raises(ValueError, match="wanted"):
            parse_objective(wrong)


def test_a_result_of_another_version_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"schema": "recsys-loadtest/0"}')
    with pytest.raises(InputError, match="found 'recsys-loadtest/0'; measure it again"):
        read_result(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="wanted a result of `recsys loadtest`"):
        read_result(path)


def sent(latency_s: list[float], labels: list[str], late_s: float = 0.0) -> Sent:
    names = tuple(dict.fromkeys(labels))
    count = len(labels)
    return Sent(
        due_s=np.arange(count) / 10.0, latency_s=np.array(latency_s),
        lateness_s=np.full(count, late_s), kinds=np.zeros(count, dtype=np.int64),
        labels=np.array([names.index(label) for label in labels]), label_names=names, stages={},
        elapsed_s=count / 10.0, cpu_s=(0.1,), given_up=False, interrupted=False, num_open=0,
    )  # fmt: skip


def test_what_has_no_answer_makes_percentiles_worse_and_not_better() -> None:
    labels = ["200 full"] * 8 + ["200 popular", "error: timeout"]
    step = summarise(
        sent([0.01] * 9 + [float("nan")], labels), rate=10.0, duration_s=1.0, timeout_s=2.0,
        objective=parse_objective("p99<50ms,errors<20%,degraded<5%"),
    )  # fmt: skip
    assert step.latency_ms["p99"] == 2_000
    assert (step.errors, step.degraded) == (0.1, 0.1)
    assert step.missed == ["p99 2000.0 ms", "degraded 10 %"]


def test_a_late_generator_measures_itself_and_says_so() -> None:
    step = summarise(
        sent([0.01] * 10, ["200"] * 10, late_s=0.008), rate=10.0, duration_s=1.0, timeout_s=2.0,
        objective=None,
    )  # fmt: skip
    assert step.missed == ["the generator was 8.0 ms late"]


def test_a_sender_that_is_killed_is_missed(url: str) -> None:
    from benchmarks.loadtest.sender import SenderConfig
    from benchmarks.loadtest.senders import Schedule
    from benchmarks.loadtest.targets import parse_address

    config = SenderConfig(
        address=parse_address(url), template=None, user_ids=("ann",), k=10, click_rate=0.0,
        learns=False, timeout_s=5.0, seed=(0,),
    )  # fmt: skip
    none = np.zeros(3, dtype=np.int64)
    schedule = Schedule(due_s=np.array([0.0, 0.1, 60.0]), user_places=none, kinds=none)
    with Senders(config, 1) as senders:

        def kill(_so_far: object) -> None:
            os.kill(senders.pids[0], 9)

        with pytest.raises(ServerError, match="it ended with -9"):
            senders.run(schedule, max_waiting=100, watch=kill)


def test_histograms_keep_what_occurred() -> None:
    found = histogram_of(np.array([1.0, 1.0, 2.0, 5_000.0]))
    assert found.get_total_count() == 4
    assert found.get_max_value() == pytest.approx(5_000_000, rel=1e-3)


def test_a_result_reads_back_as_it_was_written(url: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    main(["--url", url, "--duration", "0.3", "--warmup", "0", "--output",
          str(output), "--profile", "steps:20,40"])  # fmt: skip
    result = read_result(output)
    assert [step.rate for step in result.steps()] == [20.0, 40.0]
    assert encode(result) + b"\n" == output.read_bytes()
