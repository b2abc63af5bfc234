"""From log to live bundle: killed anywhere, twice, two at once, with bad data and a bad bundle."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import redis
from rich.console import Console

from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.clock import DAY_MS, now_ms
from recsys.errors import BundleError, ConfigurationError, InputError
from recsys.evaluation.report_document import Report
from recsys.settings import Settings
from tests.training.pipeline.small_state import append, open_gate, small_definition, small_state
from training.debug_bundle import DEBUG_END_MS, made_up_log
from training.pipeline.definition import DataBounds, Definition, read_definition
from training.pipeline.gate import GateRefusedError
from training.pipeline.journal import Journal, read_journal
from training.pipeline.one_run import BusyError, turn_by_file, turn_in_redis
from training.pipeline.run import Ran, _prune, run_pipeline
from training.pipeline.state import journal_path, outputs_folder, pipeline_folder, read_state
from training.pipeline.status import status_of
from training.report.write import read_report
from training.tracking.record import record_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A state folder that the tests of this module share: each adds to it."""
    return small_state(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def first(state: Settings) -> Ran:
    return run(state)


def run(settings: Settings, definition: Definition | None = None, **options) -> Ran:
    return run_pipeline(
        definition or small_definition(), settings, console=Console(file=io.StringIO()),
        now_ms=now_ms(), **options,
    )  # fmt: skip


def events(settings: Settings, ran: Ran, name: str) -> list[str]:
    path = journal_path(settings, ran.run)
    return [e["step"] for e in read_journal(path) if e["event"] == name]


def test_a_run_ends_with_its_bundle_live_and_the_same_again_makes_nothing(state, first) -> None:
    assert first.live == first.bundle_id == BundleStore(state.bundle_dir).live()
    started = events(state, first, "step_done")
    assert started == [
        "data", "features", "examples", "towers", "index", "ranker", "refit", "bundle",
        "evaluate", "gate", "register", "publish",
    ]  # fmt: skip
    again = run(state)
    assert again.bundle_id == first.bundle_id
    assert events(state, again, "step_started") == []


def test_a_field_only_the_ranker_uses_trains_the_ranker_alone(state, first, tmp_path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('base = "debug"\n[ranker]\nlearning_rate = 0.004\n')
    ran = run(state, small_definition(recipe_file=str(recipe)), dry_run=True)
    made = events(state, ran, "step_started")
    assert made == ["ranker", "bundle", "evaluate", "gate"]
    assert ran.bundle_id != first.bundle_id


def test_a_dry_run_ends_with_the_gate(state, first) -> None:
    ran = run(state, small_definition(seed=21), dry_run=True)
    assert ran.passed and ran.bundle_id != first.bundle_id
    assert "register" not in ran.outputs
    with pytest.raises(BundleError, match="no bundle"):
        BundleStore(state.bundle_dir).path(ran.bundle_id)


def test_a_bundle_below_a_floor_is_refused_with_the_figures_and_the_live_one_stays(state, first):
    gate = open_gate().model_copy(update={"floors": {"repeats_allowed.recall@20": 1.01}})
    definition = small_definition(seed=21, gate=gate)
    with pytest.raises(
        GateRefusedError, match=r"floor repeats_allowed.recall@20: wanted 1.0100"
    ) as refused:
        run(state, definition)
    assert Path(str(refused.value).rpartition("its report in ")[2]).is_file()
    latest = read_state(state)
    assert latest is not None and latest.outcome == "refused" and "1.0100" in latest.error
    assert BundleStore(state.bundle_dir).live() == first.live
    dry = run(state, definition, dry_run=True)
    assert not dry.passed


def test_a_damaged_output_in_the_middle_is_said_and_the_bundle_is_the_same(state, first) -> None:
    damaged = first.outputs["ranker"].path / "output.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    ran = run(state)
    assert events(state, ran, "step_damaged") == ["ranker"]
    assert ran.bundle_id == first.bundle_id


def test_the_report_and_the_gate_hold_the_candidate_to_the_same_champion(state, first) -> None:
    """The champion's figures are those of its own evaluation: the same users, on the same test."""
    ran = run(state, small_definition(seed=21), dry_run=True)
    report = Report.model_validate_json(
        (ran.outputs["gate"].path / "report" / "report.json").read_bytes()
    )
    assert report.bundle_id == ran.bundle_id and {p.phase for p in report.curve} >= {"towers"}
    assert report.against is not None and report.against.bundle_id == first.live
    gate = json.loads((ran.outputs["gate"].path / "gate.json").read_bytes())
    found = {check["what"]: check["found"] for check in gate["checks"]}
    served = read_manifest(first.outputs["evaluate"].path / "bundle").metrics["views"]
    assert len(report.against.views) == 2
    for view in report.against.views:
        for metric in ("recall", "ndcg"):
            wanted = served[view.view]["served"][f"{metric}@{report.k}"]
            assert view.theirs[metric].mean == pytest.approx(wanted, abs=1e-5)
            said = found[f"champion, {view.view} {metric}@{report.k}"]
            assert said.startswith(f"{view.difference[metric].mean:+.4f} (")


def test_the_report_lies_beside_the_bundle_and_is_recorded_with_it(state, first) -> None:
    store = BundleStore(state.bundle_dir)
    assert read_report(state.bundle_dir, first.bundle_id).against is None  # nothing was live
    recorded = {path.name for path in record_of(store.path(first.bundle_id)).artifacts}
    assert recorded >= {"report.html", "report.json", "MODEL_CARD.md"}


def test_events_that_come_during_a_run_do_not_change_what_it_learns_from(tmp_path) -> None:
    """A run that was killed after its data step goes on with the log as it was then."""
    settings = small_state(tmp_path / "a")
    definition = small_definition(publish="no")
    child = (
        "import sys, os, signal\n"
        "from tests.training.pipeline.killed_pipeline import *\n"
        "from recsys.settings import Settings\n"
        "tell = Journal.tell\n"
        "def die(self, event, **fields):\n"
        "    tell(self, event, **fields)\n"
        "    if (event, fields.get('step')) == ('step_done', 'data'): os.kill(os.getpid(), 9)\n"
        "Journal.tell = die\n"
        "run_pipeline(small_definition(publish='no'), Settings(RECSYS_STATE_DIR=sys.argv[1]),"
        " console=Console(stderr=True), now_ms=now_ms())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, str(settings.state_dir)], cwd=ROOT, check=False
    )
    assert done.returncode == -9
    before = read_state(settings)
    later = (
        made_up_log(num_users=5, num_items=40, seed=3, end_ms=DEBUG_END_MS + 9 * DAY_MS)
        .filter(pl.col("kind") == "interaction")
        .with_columns(event_id="later-" + pl.col("event_id"))
    )
    append(settings, later, offset=max(before.positions.values()))
    ran = run(settings, definition)
    assert ran.run == before.run
    facts = json.loads((ran.outputs["data"].path / "data.json").read_text())["facts"]
    assert facts["until_ms"] < DEBUG_END_MS
    fresh = run(settings, definition)
    assert fresh.run != ran.run and fresh.bundle_id != ran.bundle_id


def test_killed_at_every_step_the_run_ends_with_the_bundle_of_one_left_alone(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.pipeline.killed_pipeline", str(tmp_path), "6"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    alone, killed = found["bundles"]
    assert alone == killed
    # One that is killed in telling that it is done was done: the next is another run.
    assert found["kills"] >= 5 and found["runs"] <= 2


def test_a_second_run_at_once_is_refused_and_told_who_runs(state, first) -> None:
    with (
        turn_by_file(pipeline_folder(state), note="run X, process 7 on here"),
        pytest.raises(BusyError, match="run X, process 7 on here"),
    ):
        run(state)


@pytest.mark.servers
def test_the_lease_in_redis_is_one_s_alone_and_its_numbers_only_rise(redis_url, namespace) -> None:
    client = redis.Redis.from_url(redis_url)
    with turn_in_redis(client, namespace, note="run A, process 7 on here") as turn:
        turn.check()
        with (
            pytest.raises(BusyError, match="run A, process 7 on here"),
            turn_in_redis(client, namespace, note="run B"),
        ):
            pass
        earlier = turn.fence
    with turn_in_redis(client, namespace, note="run B") as turn:
        assert turn.fence > earlier
        client.delete(f"{namespace}:pipeline:fence")  # a Redis that was emptied
        time.sleep(0.002)
        earlier = turn.fence
    with turn_in_redis(client, namespace, note="run C") as turn:
        assert turn.fence > earlier


def test_the_state_tells_each_step_and_that_nobody_runs(state, first) -> None:
    run(state)
    latest = read_state(state)
    found = status_of(state, latest)
    assert found["holder"] is None and found["now"].startswith("done")
    assert [step["step"] for step in found["steps"]][:3] == ["data", "features", "examples"]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"min_events": 10_000}, "680 events, wanted 10000 or more"),
        ({"min_users": 1000}, "40 users, wanted 1000"),
        ({"max_age_hours": 24}, "hours old, wanted at most 24"),
    ],
)
def test_data_that_are_not_fit_are_refused_before_anything_is_trained(state, bounds, said) -> None:
    with pytest.raises(InputError, match=said):
        run(state, small_definition(data=DataBounds(**bounds)))


def test_a_gap_in_the_log_is_found(tmp_path) -> None:
    settings = small_state(tmp_path)
    for file in settings.event_log_dir.rglob("*.parquet"):
        file.unlink()
        break
    with pytest.raises(InputError, match="recsys log verify"):
        run(settings)


def test_a_mistake_in_the_definition_is_named_before_anything_runs(tmp_path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text('recipe = "debug"\n[gate]\nfloor = 1\n')
    with pytest.raises(ConfigurationError, match=r"gate\.floor: Extra inputs"):
        read_definition(path, {})
    path.write_text("recipe = debug")
    with pytest.raises(ConfigurationError, match="wanted TOML"):
        read_definition(path, {})
    with pytest.raises(ConfigurationError, match="no recipe 'dream'"):
        run(small_state(tmp_path / "s"), small_definition(recipe="dream"))


def test_what_was_rolled_back_does_not_come_back_by_running_again(state, first) -> None:
    store = BundleStore(state.bundle_dir)
    two = run(state, small_definition(seed=21))
    assert store.live() == two.bundle_id and store.rollback() == first.bundle_id
    ran = run(state, small_definition(seed=21))
    assert (ran.bundle_id, ran.live) == (two.bundle_id, first.bundle_id)
    assert events(state, ran, "step_started") == []
    told = [e["text"] for e in read_journal(journal_path(state, ran.run)) if "text" in e]
    assert f"`recsys publish {two.bundle_id}` brings it back" in told[-1]


def test_what_failed_runs_leave_is_removed_but_for_the_latest_and_the_latest_good_one(
    tmp_path,
) -> None:
    settings = Settings(RECSYS_STATE_DIR=tmp_path)
    towers = outputs_folder(settings) / "towers"
    for number, (told, end) in enumerate(
        [("done", "done"), ("done", "refused"), ("started", "failed")]
    ):
        key = f"k{number}"
        (towers / (f".scratch-{key}" if told == "started" else key)).mkdir(parents=True)
        journal = Journal(journal_path(settings, f"r{number}"), console=Console(file=io.StringIO()))
        journal.tell("run_started")
        journal.tell(f"step_{told}", step="towers", key=key, took_s=1.0)
        journal.tell(f"run_{end}", error="")
    _prune(settings, 1)
    assert sorted(path.name for path in towers.iterdir()) == [".scratch-k2", "k0"]
