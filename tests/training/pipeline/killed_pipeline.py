"""``python -m tests.training.pipeline.killed_pipeline FOLDER [STRIDE]``: kill a run as it tells.

Each child dies (SIGKILL) as soon as it has told of something nobody told before: a step begun, an
epoch, a step done. So every step is killed at its beginning, in its middle and at its end, and the
next child goes on from there. With a stride it dies at every so many of them. Prints the bundle of
a run that was left alone, that of the killed one, and the number of kills.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from recsys.clock import now_ms
from recsys.settings import Settings
from tests.training.pipeline.small_state import small_definition, small_state
from training.pipeline.journal import Journal, read_journal
from training.pipeline.run import run_pipeline
from training.pipeline.state import pipeline_folder, read_state


def in_child(work: Any) -> int:
    """Run ``work`` in a child and give how it ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  told by the exit code
            sys.stderr.write(f"child failed: {error!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def identity(event: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(event.get(name) for name in ("event", "step", "phase", "epoch"))


def main(root: str, stride: str = "1") -> None:
    quiet = Console(file=io.StringIO())
    # This process only forks: Polars' threads, once begun, do not live on in a child.
    folders = [Path(root) / name for name in ("alone", "killed")]
    for folder in folders:
        assert in_child(lambda: small_state(folder)) == 0  # noqa: B023
    alone, killed = (Settings(RECSYS_STATE_DIR=folder) for folder in folders)
    definition = small_definition()

    assert in_child(lambda: run_pipeline(definition, alone, console=quiet, now_ms=now_ms())) == 0
    kills = 0
    while True:
        seen = {
            identity(event)
            for path in (pipeline_folder(killed) / "runs").glob("*.jsonl")
            for event in read_journal(path)
        }

        def run() -> None:
            tell = Journal.tell
            left = int(stride)

            def tell_and_die(self: Journal, event: str, **fields: Any) -> None:
                nonlocal left
                tell(self, event, **fields)  # noqa: B023
                if identity({"event": event, **fields}) not in seen:  # noqa: B023
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            Journal.tell = tell_and_die  # type: ignore[method-assign]
            run_pipeline(definition, killed, console=quiet, now_ms=now_ms())

        status = in_child(run)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), "a run that was taken up failed"
        kills += 1
    bundles = []
    for settings in (alone, killed):
        state = read_state(settings)
        assert state is not None and state.outcome == "done"
        bundles.append(state.bundle_id)
    runs = len(list((pipeline_folder(killed) / "runs").glob("*.jsonl")))
    print(json.dumps({"bundles": bundles, "kills": kills, "runs": runs}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
