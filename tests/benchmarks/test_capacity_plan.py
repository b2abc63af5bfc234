"""The capacity model: what it predicts of a machine that is known, and what its plans keep."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity import plan_command
from benchmarks.capacity.plan import Plan, make_plan
from benchmarks.capacity.plan_demand import Demand
from benchmarks.capacity.plan_machines import DEFAULT, read_machines
from benchmarks.capacity.plan_parts import REDIS_MEMORY_PART
from benchmarks.capacity.scaling import system
from benchmarks.capacity.scaling.build import build
from benchmarks.capacity.scaling.kept import newest_laws
from benchmarks.capacity.scaling.laws import Laws
from benchmarks.capacity.scaling.page import page
from benchmarks.capacity.scaling.predict import Work, call_ms, cpu_ms_a_second, rate_at
from benchmarks.capacity.scaling.result import make_record
from benchmarks.capacity.scaling.validate import validate
from benchmarks.suite.record import path_of, write
from recsys.errors import InputError
from tests.benchmarks.scaling_points import COLD, EACH, WARM, stages_ms, synthetic_points

MACHINES = read_machines()


@pytest.fixture(scope="module")
def laws() -> Laws:
    return build(synthetic_points())


def demand(**changes: float) -> Demand:
    usual = {"users": 1e7, "items": 1e6, "rate": 2_000.0, "events": 5_000.0}
    return Demand(**(usual | changes))  # type: ignore[arg-type]


def test_what_a_known_machine_does_in_service_is_found(laws: Laws) -> None:
    assert laws.warm == pytest.approx(WARM, rel=0.03)
    assert laws.cold == pytest.approx(COLD, rel=0.03)
    assert laws.parts["model server"].by_rate.factor == pytest.approx(EACH, rel=0.03)
    assert laws.parts["model server"].idle == pytest.approx(15.0)
    assert laws.events["api"].post == pytest.approx(0.5, rel=0.05)
    assert laws.events["api"].event == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_held_out_configurations_of_a_known_machine_are_predicted(noise: float) -> None:
    points = synthetic_points(noise)
    compared = validate(points, build(points))
    assert len(compared) == sum(len(c.rates) for c in system.CONFIGURATIONS if c.is_held_out)
    for row in compared:
        assert abs(row["error"]["all"]) < 0.04 + noise, row
        assert abs(row["memory_error"]) < 0.001, row


def test_nothing_of_a_held_out_configuration_enters_a_law() -> None:
    points = synthetic_points()
    spoilt = [
        msgspec.structs.replace(point, values={"steps": []})
        if point.study == "system" and point.settings["held_out"]
        else point
        for point in points
    ]
    assert build(points) == build(spoilt)


def test_laws_survive_being_written_and_read(laws: Laws) -> None:
    assert msgspec.convert(json.loads(msgspec.json.encode(laws)), Laws) == laws


def test_a_call_of_more_users_items_or_candidates_takes_longer(laws: Laws) -> None:
    base = Work(items=20_000)
    ms = call_ms(laws, base, 1)
    known = stages_ms(20_000, "exact", 500, 50, 9, 1)
    assert ms == pytest.approx(sum(known.values()) + 0.2, rel=0.03)
    assert call_ms(laws, base, 4) > ms
    assert call_ms(laws, Work(items=90_000), 1) > ms
    assert call_ms(laws, Work(items=20_000, candidates=1_000), 1) > ms
    assert call_ms(laws, Work(items=20_000, history=150), 1) > ms


def test_a_process_at_its_rate_uses_the_cores_it_was_given(laws: Laws) -> None:
    work = Work(items=1e6)
    for part in ("api", "model server"):
        rate = rate_at(laws, part, work, 0.6)
        assert cpu_ms_a_second(laws, part, work, rate) == pytest.approx(600.0, rel=1e-3)
    assert rate_at(laws, "api", work, 0.001) == 0.0


_SIZES = {
    "users": st.floats(1e3, 1e9), "items": st.floats(2e3, 3e7), "rate": st.floats(1, 1e5),
    "events": st.floats(0, 5e5), "candidates": st.floats(50, 2_000),
    "user_events": st.floats(1, 500), "zones": st.sampled_from([1, 2, 3]),
}  # fmt: skip


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(_SIZES),
    st.sampled_from(["users", "rate", "events", "user_events", "candidates"]),
    st.floats(1.0, 20.0),
)
def test_more_never_costs_less(laws: Laws, sizes: dict[str, float], more: str, by: float) -> None:
    small = make_plan(demand(**sizes), laws, MACHINES)
    grown = min(sizes[more] * by, sizes["items"]) if more == "candidates" else sizes[more] * by
    large = make_plan(demand(**(sizes | {more: max(grown, sizes[more])})), laws, MACHINES)
    assert large.cost_a_month >= small.cost_a_month * (1 - 1e-9)


@settings(max_examples=60)
@given(st.fixed_dictionaries(_SIZES))
def test_a_plan_adds_up_and_keeps_every_bound(laws: Laws, sizes: dict[str, float]) -> None:
    asked = demand(**sizes)
    plan = make_plan(asked, laws, MACHINES)
    assert plan.cost_a_month == pytest.approx(sum(line.cost_a_month for line in plan.lines))
    assert plan.machines == sum(line.machines for line in plan.lines)
    for line in plan.lines:
        machine = MACHINES.machines[line.machine]
        part = REDIS_MEMORY_PART if line.part == "Redis" else 0.85
        on_one = -(-line.processes // line.machines)
        assert on_one * line.memory_gib / line.processes <= machine.memory_gib * part * 1.001
        assert on_one <= machine.cores or line.part == "Kafka"
        assert line.busy_cores <= line.machines * machine.cores
        assert line.bounded_by and line.says


def test_a_zone_may_be_lost(laws: Laws) -> None:
    """Two of three zones have what one had that might not be lost."""
    large = {"rate": 40_000.0, "events": 100_000.0}
    one, three = (make_plan(demand(zones=z, **large), laws, MACHINES) for z in (1, 3))
    for part in ("API", "model server", "stream"):
        assert three.line(part).processes >= 1.45 * one.line(part).processes
        assert three.line(part).machines >= 2
    assert three.line("Redis").processes == 2 * one.line("Redis").processes
    assert three.line("Kafka").busy_cores == pytest.approx(3 * one.line("Kafka").busy_cores)
    small = make_plan(demand(users=1e4, rate=5.0, events=5.0), laws, MACHINES)
    assert small.line("Redis").bounded_by in ("least of a cluster", "failure reserve")
    assert three.line("Kafka").machines >= 3


def test_memory_leaves_cores_idle_and_then_splits_items(laws: Laws) -> None:
    said = make_plan(demand(items=2e7), laws, MACHINES).line("model server")
    assert said.bounded_by == "memory" and any("idle" in text for text in said.says)
    machines = {
        name: msgspec.structs.replace(machine, memory_gib=16)
        for name, machine in MACHINES.machines.items()
    }
    small = msgspec.structs.replace(MACHINES, machines=machines)
    split = make_plan(demand(items=2e7), laws, small)
    assert split.shards > 1
    assert any("NOT BUILT" in text for text in split.line("model server").says)


def test_items_take_memory_of_every_part_that_knows_them(laws: Laws) -> None:
    few, many = (make_plan(demand(items=items), laws, MACHINES) for items in (1e6, 2e7))
    for part in ("API", "model server"):
        a, b = (plan.line(part).memory_gib / plan.line(part).processes for plan in (few, many))
        assert b > 5 * a, part
    stored = 2 * 19e6 * 300 / 2**30  # a primary and its replica
    grown = many.line("Redis").memory_gib - few.line("Redis").memory_gib
    assert grown == pytest.approx(stored, rel=0.02)


def test_a_gpu_is_said_to_be_assumed(laws: Laws) -> None:
    plan = make_plan(demand(gpu=True), laws, MACHINES)
    assert plan.gpus == plan.line("model server").machines > 0
    assert any("none was measured" in text for text in plan.line("model server").says)
    assert make_plan(demand(), laws, MACHINES).gpus == 0


def test_a_faster_core_needs_fewer_processes(laws: Laws) -> None:
    quick = {
        name: msgspec.structs.replace(machine, relative_speed=2.0)
        for name, machine in MACHINES.machines.items()
    }
    machines = msgspec.structs.replace(MACHINES, machines=quick)
    busy = demand(events=500_000.0)
    plans = [make_plan(busy, laws, some) for some in (MACHINES, machines)]
    for part in ("API", "model server", "stream"):
        assert plans[1].line(part).processes < plans[0].line(part).processes


@pytest.mark.parametrize(
    "changes",
    [{"users": 0}, {"rate": -1}, {"items": float("nan")}, {"utilisation": 0.99}, {"events": -1},
     {"candidates": 5e6}, {"zones": 0}, {"user_events": float("inf")}],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused(laws: Laws, changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match="wanted"):
        make_plan(demand(**changes), laws, MACHINES)


def test_cores_that_idling_takes_whole_are_refused(laws: Laws) -> None:
    slow = {
        name: msgspec.structs.replace(machine, relative_speed=0.1)
        for name, machine in MACHINES.machines.items()
    }
    machines = msgspec.structs.replace(MACHINES, machines=slow)
    with pytest.raises(InputError, match="idles with all"):
        make_plan(demand(utilisation=0.1), laws, machines)


def test_extrapolation_is_said(laws: Laws) -> None:
    plan = make_plan(demand(items=1e7, users=1e8), laws, MACHINES)
    assert any(said.startswith("items") for said in plan.extrapolated)
    assert any(said.startswith("users in Redis") for said in plan.extrapolated)
    assert not make_plan(demand(items=5e5, users=5e5), laws, MACHINES).extrapolated


@pytest.mark.parametrize(
    "text", ["", "currency = 3", 'currency = "X"\nas_of = "now"\n[machines.a]\ncores = 0']
)
def test_a_wrong_file_of_machines_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"wanted machines and prices in mine\.toml"):
        read_machines(path)
    with pytest.raises(InputError, match=r"gone\.toml"):
        read_machines(tmp_path / "gone.toml")


def test_only_gpus_are_not_enough(tmp_path: Path) -> None:
    text = DEFAULT.read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text[: text.index("[machines.general]")] + text[text.index("[machines.gpu]") :])
    with pytest.raises(InputError, match="without a GPU"):
        read_machines(path)


def test_the_newest_result_is_read_and_another_version_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        newest_laws(tmp_path)
    record = make_record(synthetic_points())
    folder = tmp_path / record.date
    folder.mkdir()
    write(folder, record)
    found, source = newest_laws(tmp_path)
    assert found == build(synthetic_points()) and record.commit in source
    path = path_of(folder, record.benchmark)
    path.write_text(path.read_text().replace('"warm"', '"worm"'))
    with pytest.raises(InputError, match="laws of this version"):
        newest_laws(tmp_path)


def test_the_page_says_what_was_predicted_and_every_exponent() -> None:
    text = page(make_record(synthetic_points(0.03)))
    assert "within 15 %" in text and "30,000 items" in text and "exponent" in text
    assert text.count("<svg") > 10


def test_the_command_prints_a_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, laws: Laws
) -> None:
    monkeypatch.setattr(plan_command, "newest_laws", lambda: (laws, "abc1234"))
    call = ["--users", "100e6", "--rate", "50000", "--items", "10e6"]
    assert plan_command.main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    plan = msgspec.convert(found["plan"], Plan)
    assert plan.demand.events == 100_000 and plan.line("Redis").machines > 0
    assert plan_command.main(call) == 0
    shown = capsys.readouterr().out
    for word in ("API", "model server", "Redis", "Kafka", "stream", "illustrative", "extrapolated"):
        assert word in shown
    assert plan_command.main([*call, "--utilisation", "2"]) == 2
    assert "utilisation" in capsys.readouterr().err
