"""A state folder with an event log of a few hundred events and a plan that need not be compiled."""

from __future__ import annotations

from pathlib import Path

import msgspec
import polars as pl

from recsys.events.event_columns import SCHEMA, to_events
from recsys.events.log import Record, TopicPartition
from recsys.events.sink import EventSink
from recsys.events.topics import Topics
from recsys.features.current_plan import default_repository, definitions_hash
from recsys.features.plan import PLAN_FILE
from recsys.settings import Settings
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import made_up_log
from training.pipeline.definition import Definition, GateBounds

NAMESPACE = "recsys"


def small_state(folder: Path, *, redis_url: str | None = None) -> Settings:
    """Make a state folder; give the settings that name it."""
    settings = Settings(
        RECSYS_STATE_DIR=folder, RECSYS_NAMESPACE=NAMESPACE, REDIS_URL=redis_url
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    plan = msgspec.structs.replace(
        small_plan(), definitions_hash=definitions_hash(default_repository())
    )
    plan.dump(folder / PLAN_FILE)
    append(settings, made_up_log(num_users=40, num_items=40), offset=0)
    return settings


def append(settings: Settings, log: pl.DataFrame, *, offset: int) -> None:
    """Write events to the event log, all in partition 0 of the behaviour topic."""
    topic = Topics(namespace=settings.namespace).behaviour
    frame = pl.concat([pl.DataFrame(schema=SCHEMA), log], how="diagonal_relaxed").with_columns(
        pl.col("attributes", "context").fill_null("{}")
    )
    at = TopicPartition(topic, 0)
    sink = EventSink(settings.event_log_dir, [at])
    sink.write(
        (Record(topic, 0, offset + n, None, b"", event.event_time_ms), event)
        for n, event in enumerate(to_events(frame))
    )
    sink.flush()
    sink.close()


def small_definition(**changes: object) -> Definition:
    """Give a pipeline of a few seconds, whose gate is open unless ``changes`` close it."""
    values: dict[str, object] = {
        "recipe": "debug", "dataset": "simulated", "ray": False, "lease": "file",
        "publish": "point", "gate": open_gate(), "keep_runs": 20,
    }  # fmt: skip
    return Definition.model_validate(values | changes)


def open_gate() -> GateBounds:
    """Give bounds that everything passes; the champion is compared nevertheless."""
    return GateBounds(baselines=(), max_calibration_error=None, champion_margin=1.0)
