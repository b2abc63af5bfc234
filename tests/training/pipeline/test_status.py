"""What the status says of no run, of damaged files, of a run at work and of one that was cut short;
and what a run that is asked to stop says of itself."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import pytest
from rich.console import Console

from recsys.settings import Settings
from training.pipeline.journal import Journal, read_journal
from training.pipeline.one_run import turn_by_file
from training.pipeline.state import RunState, journal_path, pipeline_folder, state_path, write_state
from training.pipeline.status import show_status
from training.pipeline.stop import Stop, kept

RUN = "20251009T000000-abcd"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(RECSYS_STATE_DIR=tmp_path, RECSYS_HOST="127.0.0.1")


def begin(settings: Settings) -> Journal:
    """Have a run that is in the middle of its towers."""
    state = RunState(
        run=RUN, definition="x", started_ms=1_760_000_000_000, positions={}, champion=None,
        outcome="running",
    )  # fmt: skip
    write_state(settings, state)
    journal = Journal(journal_path(settings, RUN), console=Console(file=io.StringIO()))
    journal.tell("run_started", what="")
    journal.tell("step_started", step="data", key="k1", attempt=1)
    journal.tell("step_done", step="data", key="k1", took_s=0.5)
    journal.tell("step_started", step="towers", key="k2", attempt=1)
    journal.tell("epoch", step="towers", phase="towers", epoch=3, epochs=8, loss=1.25)
    return journal


def test_of_an_empty_folder(settings, capsys) -> None:
    assert show_status(settings, as_json=False) == 2
    assert "no run yet; begin one with `recsys pipeline run`" in capsys.readouterr().err


def test_of_a_damaged_state(settings, capsys) -> None:
    begin(settings)
    state_path(settings).write_bytes(b'{"run": "20')
    assert show_status(settings, as_json=False) == 2
    said = capsys.readouterr().err
    assert "latest.json is damaged or of another version" in said and "/runs" in said


def test_of_a_run_at_work_it_says_who_and_how_far(settings, capsys) -> None:
    begin(settings)
    with turn_by_file(pipeline_folder(settings), note="run X, process 7 on here"):
        assert show_status(settings, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["now"] == "at work: run X, process 7 on here"
    towers = found["steps"][1]
    assert towers["outcome"] == "at work" and towers["took_s"] > 0
    assert towers["epoch"] == "towers epoch 3 of 8, loss 1.2500"


def test_of_one_that_was_killed_it_says_what_was_cut_short(settings, capsys) -> None:
    begin(settings)
    assert show_status(settings, as_json=False) == 0
    said = capsys.readouterr().out
    assert "goes on where it was" in said and "cut short, towers epoch 3 of 8" in said


def test_of_a_damaged_journal_it_shows_what_can_be_read(settings, capsys) -> None:
    path = begin(settings).path
    whole = path.read_bytes().splitlines(keepends=True)
    foreign = [b"\xff\xfe\x00", b'{"event": "step_done", "step": "x"}\n', b"[1]\n", b'{"a": 1}\n']
    path.write_bytes(b"".join([*whole[:3], *foreign, *whole[3:], whole[3][:20]]))
    assert len(list(read_journal(path))) == len(whole)
    assert show_status(settings, as_json=False) == 0
    assert "towers" in capsys.readouterr().out
    path.unlink()
    assert show_status(settings, as_json=False) == 0
    assert "nothing is told of its steps" in capsys.readouterr().out


def test_a_stopped_run_says_what_is_kept(settings) -> None:
    journal = begin(settings)
    assert kept(read_journal(journal.path)) == (
        "the steps data and towers up to its last checkpoint, about epoch 3 of 8"
    )
    journal.tell("step_done", step="towers", key="k2", took_s=1.0)
    journal.tell("step_started", step="ranker", key="k3", attempt=1)
    assert kept(read_journal(journal.path)) == "the steps data, towers"
    assert kept([]) == "nothing, it had only begun"


def test_asked_to_stop_it_unwinds_with_the_code_of_the_signal() -> None:
    stop = Stop()
    with pytest.raises(SystemExit) as raised:
        stop(signal.SIGTERM, None)
    assert raised.value.code == stop.code == 143


def test_what_is_told_is_shown_as_it_is(settings) -> None:
    shown = io.StringIO()
    journal = Journal(journal_path(settings, RUN), console=Console(file=shown, width=200))
    journal.tell("said", text="change [data] in the definition")
    assert "change [data] in the definition" in shown.getvalue()
