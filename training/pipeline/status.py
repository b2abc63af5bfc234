"""What the latest run has done, step by step, and who runs now."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.settings import Settings
from training.pipeline.journal import read_journal
from training.pipeline.one_run import holder_in_file, holder_in_redis
from training.pipeline.state import RunState, journal_path, pipeline_folder, read_state

_OUTCOMES = {
    "step_reused": "as before",
    "step_started": "at work",
    "step_damaged": "damaged, to be made again",
    "step_retried": "waits for another try",
    "step_failed": "failed",
    "step_done": "done",
}


def show_status(settings: Settings, *, as_json: bool) -> int:
    """Print it; gives the exit code."""
    state = read_state(settings)
    if state is None:
        sys.stderr.write("recsys pipeline: no run yet; begin one with `recsys pipeline run`\n")
        return 2
    found = status_of(settings, state)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    console = Console(highlight=False)
    started = datetime.fromtimestamp(state.started_ms / 1000, UTC)
    console.print(f"run [bold]{state.run}[/bold], begun {started:%Y-%m-%d %H:%M:%S} UTC")
    console.print(found["now"])
    table = Table()
    for title in ("step", "", "seconds", "tries", "key"):
        table.add_column(title)
    for step in found["steps"]:
        seconds = "" if step["took_s"] is None else f"{step['took_s']:.1f}"
        table.add_row(step["step"], step["outcome"], seconds, str(step["attempts"]), step["key"])
    console.print(table)
    if state.error:
        console.print(f"[red]{state.error}[/red]")
    return 0


def status_of(settings: Settings, state: RunState) -> dict[str, Any]:
    """Give the latest run as plain values."""
    steps: dict[str, dict[str, Any]] = {}
    path = journal_path(settings, state.run)
    for event in read_journal(path) if path.exists() else ():
        outcome = _OUTCOMES.get(event["event"])
        if outcome is None:
            continue
        row = steps.setdefault(event["step"], {"step": event["step"], "took_s": None})
        row |= {"outcome": outcome, "key": event["key"], "took_s": event.get("took_s")}
        row["attempts"] = event.get("attempt", row.get("attempts", 0))
    holder = holder_in_redis(settings) or holder_in_file(pipeline_folder(settings))
    return {
        **state.model_dump(),
        "holder": holder,
        "now": _now(state, holder),
        "steps": list(steps.values()),
    }


def _now(state: RunState, holder: str | None) -> str:
    if holder is not None:
        return f"at work: {holder}"
    if state.outcome == "running":
        return "killed or stopped; `recsys pipeline run` goes on where it was"
    live = f", bundle {state.bundle_id}" if state.bundle_id else ""
    return f"{state.outcome}{live}"
