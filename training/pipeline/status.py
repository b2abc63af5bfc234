"""What the latest run has done, step by step, and who runs now."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.clock import now_ms
from recsys.features.quality.moments import age
from recsys.settings import Settings
from training.pipeline.journal import Event, read_journal
from training.pipeline.one_run import holder_in_file, holder_in_redis
from training.pipeline.state import (
    RunState,
    journal_path,
    pipeline_folder,
    read_state,
    state_path,
)

_OUTCOMES = {
    "step_reused": "as before",
    "step_started": "at work",
    "step_damaged": "damaged, to be made again",
    "step_retried": "waits for another try",
    "step_failed": "failed",
    "step_done": "done",
}
_UNFINISHED = ("step_started", "step_retried", "step_damaged")


def show_status(settings: Settings, *, as_json: bool) -> int:
    """Print it; gives the exit code."""
    state = read_state(settings)
    if state is None:
        path = state_path(settings)
        said = "no run yet; begin one with `recsys pipeline run`"
        if path.exists():
            said = (
                f"{path} is damaged or of another version; the next `recsys pipeline run` begins "
                f"anew and reuses the outputs that fit. Accounts of runs are in {path.parent}/runs"
            )
        sys.stderr.write(f"recsys pipeline: {said}\n")
        return 2
    found = status_of(settings, state)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    console = Console(highlight=False)
    started = datetime.fromtimestamp(state.started_ms / 1000, UTC)
    console.print(
        f"run [bold]{state.run}[/bold], begun {started:%Y-%m-%d %H:%M:%S} UTC, "
        f"{age(now_ms() - state.started_ms)} ago"
    )
    console.print(found["now"])
    table = Table()
    for title in ("step", "", "seconds", "tries", "key"):
        table.add_column(title, justify="right" if title in ("seconds", "tries") else "left")
    for step in found["steps"]:
        seconds = "" if step["took_s"] is None else f"{step['took_s']:.1f}"
        outcome = step["outcome"] + (f", {step['epoch']}" if step["epoch"] else "")
        table.add_row(step["step"], outcome, seconds, str(step["attempts"] or ""), step["key"])
    if found["steps"]:
        console.print(table)
    else:
        console.print(f"nothing is told of its steps in {journal_path(settings, state.run)}")
    if state.error:
        console.print(state.error, style="red", markup=False)
    return 0


def status_of(settings: Settings, state: RunState) -> dict[str, Any]:
    """Give the latest run as plain values."""
    holder = holder_in_redis(settings) or holder_in_file(pipeline_folder(settings))
    path = journal_path(settings, state.run)
    events = list(read_journal(path)) if path.exists() else []
    return {
        **state.model_dump(),
        "holder": holder,
        "now": _now(state, holder),
        "steps": _steps(events, is_running=holder is not None, present_ms=now_ms()),
    }


def _steps(events: list[Event], *, is_running: bool, present_ms: int) -> list[dict[str, Any]]:
    """Give a row for each step, in the order in which they were first told of."""
    steps: dict[str, dict[str, Any]] = {}
    for event in events:
        kind = event["event"]
        if kind == "epoch" and event["step"] in steps:
            steps[event["step"]]["epoch"] = (
                f"{event['phase']} epoch {event['epoch']} of {event['epochs']}, "
                f"loss {event['loss']:.4f}"
            )
        if kind not in _OUTCOMES:
            continue
        row = steps.setdefault(event["step"], {"step": event["step"]})
        row |= {"outcome": _OUTCOMES[kind], "key": event["key"], "took_s": event.get("took_s")}
        row["attempts"] = event.get("attempt", row.get("attempts", 0))
        row["epoch"] = row.get("epoch", "") if kind in ("step_started", "step_retried") else ""
        row["unfinished"], row["at_ms"] = kind in _UNFINISHED, event["at_ms"]
    for row in steps.values():
        unfinished, at_ms = row.pop("unfinished"), row.pop("at_ms")
        if unfinished and is_running:
            row["took_s"] = round((present_ms - at_ms) / 1000, 3)
        elif unfinished:
            row["outcome"] = "cut short"
    return list(steps.values())


def _now(state: RunState, holder: str | None) -> str:
    if holder is not None:
        return f"at work: {holder}"
    if state.outcome == "running":
        return "killed or stopped; the same `recsys pipeline run` goes on where it was"
    live = f", bundle {state.bundle_id}" if state.bundle_id else ""
    return f"{state.outcome}{live}"
