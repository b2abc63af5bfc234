"""Steps run once for what they depend on, whole or not at all, and again only where it may help."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from recsys.errors import InputError, ServerError
from training.pipeline.engine import Step, Work, run_steps
from training.pipeline.journal import Journal, read_journal
from training.pipeline.outputs import Output, Outputs
from training.pipeline.retry import RetryConfig

ROOT = Path(__file__).resolve().parents[3]


class Bench:
    """A folder in which steps are run; counts how often each was."""

    def __init__(self, folder: Path) -> None:
        self.outputs = Outputs(folder / "outputs")
        self.journal = Journal(folder / "run.jsonl", console=Console(file=io.StringIO()))
        self.ran: list[str] = []
        self.pauses: list[float] = []

    def step(self, name: str, content: str = "x", **fields) -> Step:
        def work(work: Work) -> None:
            self.ran.append(name)
            given = [(path / "out.txt").read_text() for path in work.given.values()]
            (work.out / "out.txt").write_text("+".join([*given, content]))

        return Step(
            **({"name": name, "work": work, "config": {"c": content}, "code": "1"} | fields)
        )

    def run(self, *steps: Step, check: Callable[[], None] = lambda: None) -> dict[str, Output]:
        self.ran.clear()
        return run_steps(
            steps, self.outputs, self.journal, check=check, retry=RetryConfig(),
            sleep=self.pauses.append,
        )  # fmt: skip

    def events(self, name: str) -> list[dict]:
        return [e for e in read_journal(self.journal.path) if e["event"] == name]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_nothing_runs_twice_and_only_what_depends_on_a_change_runs_again(bench: Bench) -> None:
    a, b, c = bench.step("a"), bench.step("b", "y", reads=("a",)), bench.step("c", "z")
    done = bench.run(a, b, c)
    assert bench.ran == ["a", "b", "c"]
    assert (done["b"].path / "out.txt").read_text() == "x+y"
    bench.run(a, b, c)
    assert bench.ran == []
    bench.run(bench.step("a", "new"), b, c)
    assert bench.ran == ["a", "b"]
    bench.run(a, b, replace(c, code="2"))
    assert bench.ran == ["c"]


def test_what_comes_after_depends_on_content_not_on_how_it_was_made(bench: Bench) -> None:
    a, b = bench.step("a"), bench.step("b", "y", reads=("a",))
    bench.run(a, b)
    bench.run(replace(a, config={"said": "otherwise"}), b)
    assert bench.ran == ["a"]


@pytest.mark.parametrize("harm", ["changed", "missing", "added", "manifest"])
def test_a_damaged_output_is_said_and_made_again(bench: Bench, harm: str) -> None:
    a, b = bench.step("a"), bench.step("b", "y", reads=("a",))
    path = bench.run(a, b)["a"].path
    match harm:
        case "changed":
            (path / "out.txt").write_text("X")
        case "missing":
            (path / "out.txt").unlink()
        case "added":
            (path / "stray.txt").write_text("")
        case "manifest":
            (path / "output.json").write_text("{")
    done = bench.run(a, b)
    assert bench.ran == ["a"]  # it came out as before, so what reads it is as it was
    assert (done["a"].path / "out.txt").read_text() == "x"
    (said,) = bench.events("step_damaged")
    assert {"changed": "out.txt", "missing": "no such file", "added": "stray.txt",
            "manifest": "output.json"}[harm] in said["error"]  # fmt: skip


def test_trouble_of_the_moment_is_tried_again_after_longer_and_longer_pauses(bench: Bench) -> None:
    troubles = [ServerError("away"), ConnectionResetError(), OSError(errno.ESTALE, "stale")]

    def work(work: Work) -> None:
        (work.out / "half.txt").write_text("half")
        if troubles:
            raise troubles.pop(0)
        assert [p.name for p in work.out.iterdir()] == ["half.txt"]

    bench.run(bench.step("a", work=work))
    assert bench.pauses == [2.0, 4.0, 8.0]
    assert [e["attempt"] for e in bench.events("step_retried")] == [1, 2, 3]


@pytest.mark.parametrize(
    "error",
    [InputError("bad"), TypeError("a bug"), OSError(errno.ENOSPC, "disk full"), MemoryError()],
)
def test_what_will_not_change_by_waiting_is_not_tried_again(bench: Bench, error) -> None:
    def work(work: Work) -> None:
        bench.ran.append("a")
        raise error

    with pytest.raises(type(error)):
        bench.run(bench.step("a", work=work))
    assert bench.ran == ["a"] and bench.pauses == []
    assert bench.events("step_failed")


def test_it_gives_up_in_the_end(bench: Bench) -> None:
    def work(work: Work) -> None:
        bench.ran.append("a")
        raise ServerError("away")

    with pytest.raises(ServerError):
        bench.run(bench.step("a", work=work))
    assert bench.ran == ["a"] * RetryConfig().attempts


def test_a_run_that_lost_its_right_does_not_begin_a_step(bench: Bench) -> None:
    def check() -> None:
        if "a" in bench.ran:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        bench.run(bench.step("a"), bench.step("b"), check=check)
    assert bench.ran == ["a"]


def test_a_step_whose_effect_is_gone_runs_again(bench: Bench) -> None:
    there = True
    a = bench.step("a", holds=lambda _: there)
    bench.run(a)
    bench.run(a)
    assert bench.ran == []
    there = False
    bench.run(a)
    assert bench.ran == ["a"]


def test_outputs_of_old_runs_go_and_those_named_stay(bench: Bench) -> None:
    kept, gone = bench.run(bench.step("a"))["a"], bench.run(bench.step("a", "other"))["a"]
    bench.outputs.scratch("a", "dead").mkdir()
    assert bench.outputs.prune({("a", kept.key)}) == 2
    assert kept.path.is_dir() and not gone.path.exists()


def test_a_line_that_a_kill_cut_short_spoils_neither_what_is_before_nor_after(bench: Bench) -> None:
    bench.journal.tell("said", text="one")
    with bench.journal.path.open("a") as file:
        file.write('{"event": "sa')
    bench.journal.tell("said", text="two")
    assert [e["text"] for e in read_journal(bench.journal.path)] == ["one", "two"]


def test_killed_at_any_line_it_goes_on_where_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.pipeline.killed_engine", str(tmp_path), "7"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) > 60
