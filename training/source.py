"""What a run learns from: a log as it was at one moment, the feature plan, their purpose."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from recsys.bundle.manifest import Objective
from recsys.errors import InputError
from recsys.events import event_log
from recsys.events.log_files import commits
from recsys.events.topics import Topics
from recsys.events.tracers import without_tracers
from recsys.features.plan import Plan
from recsys.feedback.exposure_lookup import LoggedExposures
from recsys.settings import Settings
from training.dataset_log import log_of_dataset
from training.evaluate import View
from training.objectives import objectives_of

_FIRST_LAYOUT = pl.CompatLevel.oldest()
Positions = dict[str, int]
"""``topic:partition`` to the first offset that does not belong to the log any more."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a run learns from, and how it is judged."""

    log: pl.DataFrame
    plan: Plan
    dataset: str
    objectives: tuple[Objective, ...]
    views: tuple[View, ...]
    """The first is the headline."""
    k: int
    relevant_type: str
    test_from_ms: int | None
    data_hash: str = ""
    """``content_hash`` of the log; "" where nobody asked for it."""
    exposures: LoggedExposures | None = None
    """What was answered meanwhile; None where the data are files, which nobody was served from."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which data a run is to learn from, as it was asked for."""

    dataset: str
    shift_ms: int = 0
    test_from: str | None = None
    from_files: bool = False


def exposures_of(settings: Settings, positions: Mapping[str, int] | None = None) -> LoggedExposures:
    """Give the log of what was answered; with ``positions`` what lies before them alone."""
    return LoggedExposures(
        log_dir=settings.event_log_dir, topic=Topics(namespace=settings.namespace).exposures,
        bundle_dir=settings.bundle_dir, positions=positions,
    )  # fmt: skip


def present_positions(settings: Settings) -> Positions:
    """Give where the logs of events and exposures end now, so that a later read can stop there."""
    found: Positions = {}
    for topic in (*_topics(settings), Topics(namespace=settings.namespace).exposures):
        for one in commits(settings.event_log_dir, topic):
            name = f"{topic}:{one.range.partition}"
            found[name] = max(found.get(name, 0), one.range.last + 1)
    return found


def fingerprint(settings: Settings, positions: Mapping[str, int]) -> str:
    """Give a hash of the files that hold the events up to ``positions``; opens none of them.

    Equal hashes mean equal rows. Compaction changes the hash and not the rows, so what depends on
    the rows should go by ``content_hash``.
    """
    return _fingerprint(settings, _topics(settings), positions)


def fingerprint_of_exposures(settings: Settings, positions: Mapping[str, int]) -> str:
    """Give the same of the exposures."""
    return _fingerprint(settings, [Topics(namespace=settings.namespace).exposures], positions)


def _fingerprint(settings: Settings, topics: list[str], positions: Mapping[str, int]) -> str:
    entries = []
    for topic in topics:
        for one in commits(settings.event_log_dir, topic):
            if one.range.first < positions.get(f"{topic}:{one.range.partition}", 0):
                parts = sorted((p.date, p.name, p.rows, p.size, p.crc32) for p in one.commit.parts)
                entries.append([topic, *one.range, parts])
    ends = [end for end in sorted(positions.items()) if end[0].rpartition(":")[0] in topics]
    return hashlib.sha256(json.dumps([sorted(entries), ends]).encode()).hexdigest()[:20]


def content_hash(log: pl.DataFrame) -> str:
    """Give a hash of the rows, in order, whatever files they came from.

    The same for the same version of Polars. Columns are hashed in Arrow's first layout: in that of
    string views equal texts lie in other buffers when they came from other files or filters.
    """
    digest = hashlib.sha256()
    for name in sorted(log.columns):
        column = io.BytesIO()
        log.select(pl.col(name)).rechunk().write_ipc(column, compat_level=_FIRST_LAYOUT)
        digest.update(column.getbuffer())
    return digest.hexdigest()[:20]


def read_log(
    settings: Settings, wanted: Wanted, *, positions: Mapping[str, int] | None = None
) -> pl.DataFrame:
    """Read the events to learn from; with ``positions`` those before them alone.

    Raises:
        InputError: when there is none.
    """
    if wanted.from_files:
        log = log_of_dataset(wanted.dataset, settings.data_dir, shift_ms=wanted.shift_ms)
    else:
        rows = event_log.scan(settings.event_log_dir, _topics(settings))
        if positions is not None:
            rows = rows.filter(event_log.before(positions))
        log = without_tracers(rows.collect())
    if log.is_empty():
        raise InputError(
            f"the event log at {settings.event_log_dir} is empty; run `recsys replay` or "
            "`recsys simulate` first, or give --from-files"
        )
    return log


def source_of(
    log: pl.DataFrame,
    plan: Plan,
    dataset: str,
    *,
    shift_ms: int,
    test_from: str | None,
    data_hash: str = "",
    exposures: LoggedExposures | None = None,
) -> Source:
    """Put a log and what the mapping of its data set says together."""
    known = objectives_of(dataset, log)
    test_from_ms = known.test_from_ms
    if test_from is not None:
        try:
            moment = datetime.fromisoformat(test_from)
        except ValueError:
            raise InputError(
                f"--test-from: wanted a time such as 2011-11-09, found {test_from!r}"
            ) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        test_from_ms = int(moment.timestamp() * 1000)
    return Source(
        log=log, plan=plan, dataset=known.name, objectives=known.objectives, views=known.views,
        k=known.k, relevant_type=known.relevant_type, data_hash=data_hash, exposures=exposures,
        test_from_ms=None if test_from_ms is None else test_from_ms + shift_ms,
    )  # fmt: skip


def _topics(settings: Settings) -> list[str]:
    topics = Topics(namespace=settings.namespace)
    return [topics.items, topics.behaviour]
