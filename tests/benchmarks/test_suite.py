"""``make bench`` keeps each result as it comes, and goes on where it was interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import machine
from benchmarks.numbers.source import RESULTS
from benchmarks.suite import run
from benchmarks.suite.plan import PLAN, RUN_ALONE, Benchmark
from benchmarks.suite.record import Record, is_done, path_of, read, write
from benchmarks.suite.servers import PreparedSystem
from recsys.errors import InputError, ServerError

_WANTED = [Benchmark(name=name) for name in ("first", "second", "third")]


def _record(benchmark: Benchmark, commit: str = "abc123") -> Record:
    return Record(
        benchmark=benchmark.name, command=run.command_of(benchmark), commit=commit,
        date="2026-01-02", started_at="2026-01-02T00:00:00+00:00", took_s=1.0, seed=1, machine={},
        versions={}, result={"rate": 3},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def clean_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "commit", lambda: "abc123")


@pytest.fixture
def measured() -> list[str]:
    return []


def _measurer(measured: list[str], ends: Exception | None = None) -> Callable[[Benchmark], Record]:
    """Measure, noting it; the second one ends as is said."""

    def measure(benchmark: Benchmark) -> Record:
        if ends is not None and benchmark.name == "second":
            raise ends
        measured.append(benchmark.name)
        return _record(benchmark)

    return measure


def test_an_interrupted_run_goes_on_with_what_is_left(tmp_path: Path, measured: list[str]) -> None:
    class KilledError(Exception):
        pass

    with pytest.raises(KilledError):
        run.run_all(_WANTED, tmp_path, _measurer(measured, KilledError()))
    assert measured == ["first"]
    assert run.run_all(_WANTED, tmp_path, _measurer(measured)) == 0
    assert measured == ["first", "second", "third"]


def test_one_that_fails_does_not_keep_the_others_waiting(
    tmp_path: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.run_all(_WANTED, tmp_path, _measurer(measured, ServerError("no broker"))) == 1
    assert measured == ["first", "third"]
    assert "without a result: ['second']" in capsys.readouterr().err
    assert run.run_all(_WANTED, tmp_path, _measurer(measured)) == 0
    assert measured == ["first", "third", "second"]


def test_again_measures_what_is_there(tmp_path: Path, measured: list[str]) -> None:
    for again in (False, False, True):
        run.run_all(_WANTED[:1], tmp_path, _measurer(measured), again=again)
    assert measured == ["first", "first"]


@pytest.mark.parametrize("now", ["def456", "abc123+", ""])
def test_results_of_another_commit_or_of_changed_files_do_not_count(
    tmp_path: Path, now: str
) -> None:
    write(tmp_path, _record(_WANTED[0]))
    command = run.command_of(_WANTED[0])
    assert is_done(tmp_path, "first", command, "abc123")
    assert not is_done(tmp_path, "first", command, now)
    assert not is_done(tmp_path, "first", f"{command} --more", "abc123")


def test_a_record_is_written_whole_and_read_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path, _record(_WANTED[0]))
    assert path == path_of(tmp_path, "first")
    assert read(path) == _record(_WANTED[0])
    assert [file.name for file in tmp_path.iterdir()] == ["first.json"]
    path.write_text("{")
    with pytest.raises(InputError, match=r"wanted a benchmark's result in first\.json"):
        read(path)


def test_a_benchmark_runs_in_its_own_process_and_its_last_line_is_the_result() -> None:
    chosen = Benchmark(name="event_codec", arguments=("--events", "2000"))
    record = run.measure(chosen, dict(os.environ))
    assert record.command == "python -m benchmarks.event_codec --events 2000"
    assert record.result["ratio"] > 0
    assert record.commit == "abc123" and record.versions["msgspec"] and record.machine["cores"]


def test_one_that_measures_a_system_is_told_where_it_is_and_its_record_names_no_path(
    tmp_path: Path,
) -> None:
    chosen = Benchmark(name="loadtest.overhead", with_system=True)
    assert run.command_of(chosen) == "python -m benchmarks.loadtest.overhead --state DIR"
    with pytest.raises(ServerError, match="found exit code 1"):  # there is none
        run.measure(chosen, dict(os.environ), tmp_path)


def test_a_system_that_cannot_be_prepared_is_an_error_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    system = PreparedSystem(tmp_path / "a file" / "system")
    for _ in range(2):
        with pytest.raises(ServerError, match="found exit code 1"):
            system.state_dir()
    system.stop()


def test_a_benchmark_that_ends_badly_is_an_error() -> None:
    with pytest.raises(ServerError, match="found exit code 2"):
        run.measure(Benchmark(name="event_codec", arguments=("--colour",)), dict(os.environ))


def _running(parent: int, module: str) -> list[psutil.Process]:
    """Give the children that run a module; others are asked for versions and commits meanwhile."""
    found = []
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error):
            if module in child.cmdline():
                found.append(child)
    return found


def test_a_signal_while_a_process_is_being_started_does_not_lose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    class Interrupted(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if "benchmarks.event_codec" in arguments[0]:
                started.append(self)
                signal.raise_signal(signal.SIGINT)  # before anybody holds what was started

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.measure(Benchmark(name="event_codec", arguments=("--colour",)), dict(os.environ))
    assert [process.returncode for process in started] == [2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks", "training.ranker", "--into", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as suite:
        ends_s = time.monotonic() + 30
        while not (children := _running(suite.pid, "benchmarks.training.ranker")):
            assert time.monotonic() < ends_s
            time.sleep(0.02)
        suite.send_signal(number)
        if number == signal.SIGINT:  # as from a terminal
            children[0].send_signal(number)
        said = suite.communicate(timeout=60)[1]
    assert suite.returncode == 130
    assert "the same command goes on" in said
    assert not any(child.is_running() for child in children)
    assert not list(tmp_path.iterdir())


def test_two_that_measure_into_one_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert run.main(["event_codec", "--into", str(tmp_path)]) == 2
    finally:
        os.close(handle)
    assert "found another run writing" in capsys.readouterr().err


def test_an_unknown_name_is_told_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["features.speed"]) == 2
    said = capsys.readouterr().err
    assert "features.speed" in said and "features.online_read" in said
    assert "features.state_bytes" in said


@pytest.mark.parametrize("name", [*(benchmark.name for benchmark in PLAN), *RUN_ALONE])
def test_each_benchmark_of_the_plan_is_there(name: str) -> None:
    assert importlib.util.find_spec(f"benchmarks.{name}") is not None


def test_committed_results_are_readable_and_name_no_machine_and_no_path() -> None:
    names = {*(benchmark.name for benchmark in PLAN), *RUN_ALONE}
    for path in RESULTS.glob("*/*.json"):
        record = read(path)
        assert record.benchmark in names and record.date == path.parent.name
        assert not record.commit.endswith("+"), "of files that are no commit"
        text = path.read_text()
        assert not re.search(r'[" ](/|file:|\w:\\\\)\w', text), path.name
        assert os.uname().nodename not in text
