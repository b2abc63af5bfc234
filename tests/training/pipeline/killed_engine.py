"""``python -m tests.training.pipeline.killed_engine FOLDER [STRIDE]``: kill the engine at any line.

Three steps that write files, one of them reading the others. After each kill the same steps are
run again: each output must be whole, and no step that was finished may run a second time. At every
line, or with a stride every so many.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console

from recsys.events import durable_files
from tests.killed_at_line import killed_at_line
from training.pipeline import engine, journal, outputs
from training.pipeline.engine import Step, Work, run_steps
from training.pipeline.journal import Journal, read_journal
from training.pipeline.outputs import Outputs
from training.pipeline.retry import RetryConfig

FILES = tuple(module.__file__ for module in (engine, outputs, journal, durable_files))


def steps() -> list[Step]:
    def write(work: Work) -> None:
        (work.out / "inner").mkdir()
        for number in range(3):
            (work.out / "inner" / f"{number}.txt").write_text(str(number) * 10)

    def join(work: Work) -> None:
        found = [p.read_text() for n in ("a", "b") for p in sorted(work.given[n].rglob("*.txt"))]
        (work.out / "all.txt").write_text(",".join(found))

    return [
        Step(name="a", work=write, config={}, code="1"),
        Step(name="b", work=write, reads=("a",), config={"n": 1}, code="1"),
        Step(name="c", work=join, reads=("a", "b"), config={}, code="1"),
    ]


def run(folder: Path) -> str:
    account = Journal(folder / "journal.jsonl", console=Console(file=io.StringIO()))
    done = run_steps(
        steps(), Outputs(folder / "outputs"), account, check=lambda: None, retry=RetryConfig()
    )
    return (done["c"].path / "all.txt").read_text()


def main(root: str, stride: str = "1") -> None:
    whole = run(Path(root) / "whole")
    kills, line = 0, 1
    while True:
        folder = Path(root) / f"killed-{kills}"
        killed = killed_at_line(lambda: (run(folder), None)[1], FILES, line)  # noqa: B023
        found = _events(folder)
        finished = {e["step"] for e in found if e["event"] == "step_done"}
        assert run(folder) == whole, kills
        again = _events(folder)[len(found) :]
        started = {e["step"] for e in again if e["event"] == "step_started"}
        assert not started & finished, (kills, started, finished)
        if not killed:
            break
        kills, line = kills + 1, line + int(stride)
    print(json.dumps(kills))  # noqa: T201


def _events(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    path = folder / "journal.jsonl"
    return list(read_journal(path)) if path.exists() else []


if __name__ == "__main__":
    main(*sys.argv[1:])
