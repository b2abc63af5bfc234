"""A simulated world whose shown lists a real bundle answered, with its exposures in a real log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from recsys.events.event_columns import to_frame
from recsys.events.log import Record, TopicPartition
from recsys.events.sink import LogSink
from recsys.features.history import UserHistory
from recsys.features.plan import Plan
from recsys.feedback.exposure import Exposure, encode_exposure
from recsys.feedback.exposure_log import EXPOSURES, exposure_of
from recsys.feedback.exposure_lookup import LoggedExposures
from recsys.feedback.logging_bundles import LoggingBundle, logging_bundles
from recsys.models.encode import encode_users
from recsys.simulation import World, WorldConfig
from tests.bundle.test_bundle import small_plan
from training.bundle_run import Made, make_bundle
from training.loop import NoCheckpoints
from training.objectives import objectives_of
from training.progress import Progress
from training.recipes import Recipe, debug
from training.source import Source
from training.world import World as Workers

TOPIC = "recsys.exposures"
PARTITIONS = 2
CONFIG = WorldConfig(num_users=120, num_items=100, num_categories=6, days=6, seed=11)
AGE_MS = 20_000
"""Of the serving table of items, in every answer."""
QUIET = Progress(quiet=True)


def simulated_log() -> pl.DataFrame:
    events = enumerate(World(CONFIG).events())
    return to_frame(
        [(Record("recsys.behaviour", 0, n, None, b"", e.event_time_ms), e) for n, e in events]
    )


def source_of(log: pl.DataFrame, exposures: LoggedExposures | None, plan: Plan) -> Source:
    purpose = objectives_of("simulated", log)
    return Source(
        log=log, plan=plan, dataset="simulated", objectives=purpose.objectives[:1],
        views=("repeats_allowed",), k=10, relevant_type=purpose.relevant_type, test_from_ms=None,
        exposures=exposures,
    )  # fmt: skip


def trained(source: Source, folder: Path, recipe: Recipe) -> Made:
    return make_bundle(
        source, recipe, folder, world=Workers(), checkpoints=NoCheckpoints(), progress=QUIET,
        now_ms=CONFIG.end_ms,
    )  # fmt: skip


def answers(log: pl.DataFrame, plan: Plan, bundle: LoggingBundle) -> list[Exposure]:
    """Give the exposure of each shown list, answered a millisecond before it was shown."""
    shown = log.filter(pl.col("kind") == "impression")
    as_of_ms = shown["event_time_ms"].to_numpy() - 1
    users = UserHistory(log, plan, bundle.vocabulary)
    tensors = encode_users(users.features_at(shown["user_id"].to_list(), as_of_ms), bundle.encoding)
    return [
        Exposure(
            request_id=request_id, user_id=user_id, route="recommendations", now_ms=at_ms,
            bundle=bundle.bundle_id, rung="full", item_ids=items, scores=[0.5] * len(items),
            features=Exposure.tensors({name: v[row : row + 1] for name, v in tensors.items()}),
            features_as_of_ms=at_ms, item_features_age_ms=AGE_MS, request=msgspec.Raw(b"{}"),
        )
        for row, (request_id, user_id, items, at_ms) in enumerate(
            zip(
                shown["request_id"], shown["user_id"], shown["items"].to_list(),
                as_of_ms.tolist(), strict=True,
            )
        )
    ]  # fmt: skip


def write(folder: Path, exposures: Sequence[Exposure], *, offset: int = 0) -> None:
    """Write exposures as the exposure worker does."""
    at = [TopicPartition(TOPIC, p) for p in range(PARTITIONS)]
    sink = LogSink(folder, at, EXPOSURES)
    for n, one in enumerate(exposures):
        value = encode_exposure(one)
        partition = n % PARTITIONS
        record = Record(
            TOPIC, partition, offset + n // PARTITIONS, b"", value, one.now_ms
        )  # fmt: skip
        sink.write([(record, exposure_of(record))])
    sink.flush()
    sink.close()


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The world after it was served."""

    log: pl.DataFrame
    plan: Plan
    bundle_dir: Path
    bundle: LoggingBundle
    exposures: list[Exposure]
    """One for each shown list of the log, in its order."""

    def logged(self, folder: Path, exposures: Sequence[Exposure] | None = None) -> LoggedExposures:
        """Write ``exposures`` (None: all) to a log in ``folder``."""
        write(folder, self.exposures if exposures is None else exposures)
        return LoggedExposures(log_dir=folder, topic=TOPIC, bundle_dir=self.bundle_dir)


def answered_world(folder: Path) -> Answered:
    """Train a bundle on joined features and let it answer every list of the log."""
    log, plan = simulated_log(), small_plan()
    made = trained(source_of(log, None, plan), folder / "bundles", debug())
    bundle = logging_bundles(folder / "bundles", [made.manifest.bundle_id])
    [only] = bundle.values()
    return Answered(
        log=log, plan=plan, bundle_dir=folder / "bundles", bundle=only,
        exposures=answers(log, plan, only),
    )  # fmt: skip


def context_rows(rounds: object) -> list[bytes]:
    """Give each list with its context as bytes, in an order that is not that of the rounds."""
    rows = []
    for question in rounds:  # type: ignore[attr-defined]
        columns = [question.shown, question.shown_position, question.shown_label]
        columns += [question.context[name] for name in sorted(question.context)]
        arrays = [np.ascontiguousarray(column.numpy()) for column in columns]
        rows += [b"".join(a[row].tobytes() for a in arrays) for row in range(len(question.weight))]
    return sorted(rows)
