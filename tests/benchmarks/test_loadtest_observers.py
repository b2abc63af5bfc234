"""Who is busy and what holds a step back: seen of real processes, named in the right order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from benchmarks.loadtest.observed import named_parts, system_at, system_parts
from benchmarks.loadtest.observer import Machine, Observer
from benchmarks.loadtest.result import Process, Stage, Step
from benchmarks.loadtest.saturation import GENERATOR, saturation
from benchmarks.loadtest.stages import StageMetrics, between, from_headers, parse_stages
from benchmarks.loadtest.targets import parse_address
from recsys.errors import InputError
from tests.benchmarks.test_loadtest_page import step

IDLE = Machine(busy=0.3, stolen=0.0, cores=2)
QUIET = Process(cores=0.2, busiest_thread=0.2, rss_mib=100.0, grown_mib=0.0)


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing else than count, and has 20 MB more after a line on stdin."""
    program = "import sys\nprint(flush=True)\nx = 0\nwhile True: x += 1"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_busy_process_is_seen_and_an_ended_one_is_left_out(
    busy: subprocess.Popen[bytes],
) -> None:
    parts = named_parts([f"counter={busy.pid}"]) | {"gone": [psutil.Process()]}
    parts["gone"][0] = _gone()
    observer = Observer(parts)
    observer.begin(duration_s=1.0)
    before = psutil.Process(busy.pid).cpu_times().user
    while psutil.Process(busy.pid).cpu_times().user < before + 0.2:
        observer.look()
    found, machine = observer.end()
    assert set(found) == {"counter"}
    assert 0.0 < found["counter"].cores <= 1.1
    assert found["counter"].busiest_thread == pytest.approx(found["counter"].cores, abs=0.05)
    assert found["counter"].rss_mib > 1.0
    assert 0.0 < machine.busy <= 1.0 and machine.cores == psutil.cpu_count()
    assert observer.looks[-1]["counter"]["descriptors"] >= 1


def _gone() -> psutil.Process:
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = psutil.Process(ended.pid)
    ended.communicate()
    return found


def test_processes_are_found_by_name_or_as_a_running_system(tmp_path: Path) -> None:
    for wrong in ("api", "api=x", "=3"):
        with pytest.raises(InputError, match="--pid: wanted NAME=PID"):
            named_parts([wrong])
    with pytest.raises(InputError, match="wanted process 999999999"):
        named_parts(["api=999999999"])
    with pytest.raises(InputError, match="--state: wanted the folder of a system"):
        system_parts(tmp_path)
    ours = parse_address("http://127.0.0.1:8123")
    assert system_at(ours, tmp_path) == {}
    (tmp_path / "run").mkdir()
    servers = [
        {"name": "redis", "pid": None, "address": "127.0.0.1:6379"},
        {"name": "api", "pid": os.getpid(), "address": "http://127.0.0.1:8123"},
    ]
    (tmp_path / "run" / "supervisor.json").write_text(json.dumps({"servers": servers}))
    assert system_parts(tmp_path)["api"][0].pid == os.getpid()
    assert set(system_at(ours, tmp_path)) == {"api"}
    assert system_at(parse_address("http://127.0.0.1:9000"), tmp_path) == {}
    assert system_at(parse_address("http://elsewhere:8123"), tmp_path) == {}


PAGE = """# TYPE recsys_stage_seconds histogram
recsys_stage_seconds_bucket{stage="features",le="0.001"} %d
recsys_stage_seconds_bucket{stage="features",le="0.005"} %d
recsys_stage_seconds_bucket{stage="features",le="+Inf"} %d
recsys_stage_seconds_count{stage="features"} %d
recsys_stage_seconds_sum{stage="features"} %f
"""


def test_stages_are_what_was_added_between_two_looks() -> None:
    before = parse_stages(PAGE % (10, 10, 10, 10, 0.005))
    after = parse_stages(PAGE % (60, 110, 110, 110, 0.205))
    (stage,) = between(before, after, requests=200).values()
    assert stage == Stage(mean_ms=1.0, p99_ms=5.0, count=100)
    late = parse_stages(PAGE % (60, 60, 110, 110, 0.205))
    assert between(before, late, requests=200)["features"].p99_ms is None
    assert between(after, after, requests=200) == {}
    nobody = StageMetrics("http://127.0.0.1:1/metrics")
    assert nobody.read() == {} and "127.0.0.1:1" in nobody.trouble
    found = from_headers({"db": [1.0, 3.0]}, requests=4)
    assert found == {"db": Stage(mean_ms=1.0, p99_ms=3.0, count=2)}


def refused(answers: dict[str, int]) -> Step:
    bad = sum(count for label, count in answers.items() if label[:1] != "2")
    slow = step(100, 61.0)
    return replace(slow, answers=answers, errors=bad / slow.sent)


def cause(one: Step, machine: Machine = IDLE, **cores: float) -> str:
    parts = {name: replace(QUIET, cores=c, busiest_thread=c) for name, c in cores.items()}
    found = saturation(one, parts | {GENERATOR: QUIET}, machine)
    return "" if found is None else found.cause


def test_the_cause_that_explains_the_others_is_named() -> None:
    full = Machine(busy=0.99, stolen=0.2, cores=2)
    slow, fine = step(100, 61.0), step(100, 9.0)
    assert cause(fine, full, api=0.97) == "", "busy, and nobody waits"
    assert cause(step(100, 61.0, late_ms=9.0), full, api=0.97) == "the load generator itself"
    assert cause(slow, full, api=0.97) == "the machine's cores"
    assert cause(slow, IDLE, api=0.97, redis=0.3) == "one thread of api"
    turned_away = refused({"200 full": 200, "503": 100})
    assert cause(turned_away, api=0.4) == "the service's own admission or deadlines"
    assert cause(turned_away, IDLE, api=0.97) == "one thread of api"
    waits = replace(slow, stages={"recommend": Stage(mean_ms=50.0, p99_ms=None, count=300)})
    assert cause(waits, api=0.4) == "the stage recommend"
    assert cause(slow, api=0.4) == "a queue or a bound that was not seen"
    lost = refused({"200 full": 297, "error: timeout": 3})
    assert cause(lost) == "a queue or a bound that was not seen"


def test_a_queue_that_grows_is_evidence() -> None:
    quick, slow = step(100, 5.0), step(100, 300.0)
    grows = replace(quick, missed=[], seconds=[quick.seconds[0], quick.seconds[1], slow.seconds[2]])
    found = saturation(grows, {"api": QUIET, GENERATOR: QUIET}, IDLE)
    assert found is not None
    assert found.evidence == ["latency grows through the step: more arrives than is answered"]
    unseen = saturation(grows, {GENERATOR: QUIET}, IDLE)
    assert unseen is not None and "--state or --pid" in unseen.evidence[-1]
