"""What is remembered of runs: the pins of the latest, and what came of it.

``<state>/pipeline/latest.json`` is replaced whole. A run that is ``running`` there while nobody
holds the lease was killed; the next one of the same definition goes on with its pins.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from recsys.clock import HOUR_MS
from recsys.events.durable_files import make_directory, write_durably
from recsys.settings import Settings
from training.pipeline.definition import Definition
from training.pipeline.pins import Pins

Outcome = Literal["running", "done", "failed", "refused"]
RESUME_WITHIN_MS = 24 * HOUR_MS
"""A run that was killed longer ago is not taken up: its data are a day old."""


class RunState(BaseModel):
    """The latest run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    definition: str
    """Hash of it."""
    started_ms: int
    positions: dict[str, int]
    champion: str | None
    before: str | None = None
    outcome: Outcome
    error: str = ""
    bundle_id: str | None = None

    @property
    def pins(self) -> Pins:
        """Give what the run holds on to."""
        return Pins(
            run=self.run, started_ms=self.started_ms, positions=self.positions,
            champion=self.champion, before=self.before,
        )  # fmt: skip


def pipeline_folder(settings: Settings) -> Path:
    """Give where runs, schedule and lock are remembered; no event and no user lies there."""
    return settings.state_dir / "pipeline"


def outputs_folder(settings: Settings) -> Path:
    """Give where steps leave their outputs.

    Under the folder of training, which erasing a user removes as a whole: examples hold users.
    """
    # Absolute: Ray's workers have another working directory.
    return settings.state_dir.absolute() / "training" / "pipeline"


def journal_path(settings: Settings, run: str) -> Path:
    """Give the file that tells of a run."""
    return pipeline_folder(settings) / "runs" / f"{run}.jsonl"


def read_state(settings: Settings) -> RunState | None:
    """Give the latest run; None when there was none or its file is of another version."""
    try:
        return RunState.model_validate_json(state_path(settings).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_state(settings: Settings, state: RunState) -> None:
    """Remember the latest run."""
    make_directory(pipeline_folder(settings))
    write_durably(state_path(settings), state.model_dump_json(indent=1).encode())


def definition_hash(definition: Definition) -> str:
    """Give a hash of all fields but those that say when and where."""
    fields: dict[str, Any] = definition.model_dump(mode="json", exclude={"schedule", "kubernetes"})
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def to_resume(state: RunState | None, definition: Definition, *, now_ms: int) -> RunState | None:
    """Give the run to go on with: the latest, if it was killed and asked for the same."""
    if (
        state is not None
        and state.outcome == "running"
        and state.definition == definition_hash(definition)
        and now_ms - state.started_ms < RESUME_WITHIN_MS
    ):
        return state
    return None


def new_run_name(now_ms: int) -> str:
    """Give a name that sorts by time."""
    return f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}"


def state_path(settings: Settings) -> Path:
    """Give the file that remembers the latest run."""
    return pipeline_folder(settings) / "latest.json"
