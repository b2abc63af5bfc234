"""All features, or those of new views, from the event log by the code that makes them from the
stream.

The log is laid out by entity first (``log_shuffle.py``); then each part is told to a
``FeatureStream`` of the views keyed by that side's id, and written when it is done: memory holds
the entities of one part. The columns are the stream's own, so the result is equal to the byte,
positions included: the stream goes on from where the log ends with no gap and nothing counted
twice.

``anew`` computes whatever the store holds, for one who keeps all others out. Otherwise the store is
whole and others write it meanwhile: only the fields of the given states are written beside theirs.
Killed, it is run again with the same folder, and goes on with the parts that are not done; a part
done twice is skipped by the positions in it, or written again as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from recsys.errors import ConfigurationError
from recsys.events.log import TopicPartition
from recsys.events.log_files import ends
from recsys.events.topics import Topics
from recsys.features.batch import Int64s
from recsys.features.batch_columns import BatchColumns
from recsys.features.entities import CATEGORIES_FIELD, layout_of, streamed_views
from recsys.features.frame_columns import columns_of_rows, rows_of_frame
from recsys.features.hashes import (
    ANY_VERSION,
    VERSION_FIELD,
    Found,
    HashReader,
    HashWriter,
    Wanted,
    Write,
    version_of,
)
from recsys.features.log_shuffle import SIDES, LogSpan, batches, shuffle
from recsys.features.names import identity_hashes
from recsys.features.packed_fields import merged
from recsys.features.plan import Plan
from recsys.features.stream import FeatureStream
from recsys.features.view import View

PART_EVENTS = 2_000_000
"""Events to aim at for one part: those of some 100,000 shoppers in a month, about 1 GB."""
_WRITE_AT_ONCE = 2_048
_JOB_FILE = "job.json"
_SHUFFLED_FILE = "shuffled"
_KEYS_FILE = "keys.npy"
_Place = Literal["item", "user", "log"]


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder of work is of; of another, nothing in it is believed."""

    event_log_dir: str
    states: list[str]
    anew: bool
    num_parts: int
    ends: list[tuple[str, int, int, int]]
    """Topic, partition, first record that is not in it, our number for the log's offset 0."""


@dataclass(frozen=True, kw_only=True)
class Backfilled:
    """What was computed and written, as of the end of the event log."""

    positions: dict[TopicPartition, int]
    """First record of each partition that is not in the features, in the event log's numbers."""
    bases: dict[TopicPartition, int]
    """The event log's number for Kafka's offset 0."""
    layout: str
    num_events: int
    num_entities: int
    key_hashes: Int64s
    """Hashes of the names of all hashes written, sorted."""

    def wrote(self, keys: Sequence[bytes]) -> list[bool]:
        """Give for each hash whether it is one of those written."""
        asked = _key_hashes(keys)
        place = np.searchsorted(self.key_hashes, asked)
        padded = np.append(self.key_hashes, 0)
        found: list[bool] = ((padded[place] == asked) & (place < len(self.key_hashes))).tolist()
        return found


def backfill(
    event_log_dir: Path,
    plan: Plan | Sequence[Plan],
    store: HashReader,
    writer: HashWriter,
    folder: Path,
    *,
    states: Sequence[str] | None = None,
    anew: bool = True,
    token: str = "",
    progress: Callable[[str, int, int], None] = lambda _what, _n, _of: None,
) -> Backfilled:
    """Compute features from the event log and write them.

    Args:
        event_log_dir: ``Settings.event_log_dir``.
        plan: What to compute; several are treated as ``FeatureStream`` does. Their project is the
            namespace of the topics.
        store: What ``writer`` writes, for categories, versions and what a former attempt wrote.
        writer: Where to write.
        folder: Work of this and of former attempts; grows as large as the log. Remove it after.
        states: ``View.state_name`` of those to compute; all of them by default.
        anew: Whether to compute without regard to what is stored, and to write whatever the
            versions are. Else each hash is written only if it is still as it was read.
        token: Of the store: parts done under another are done again.
        progress: Told what is going on, and how many steps of how many are done.

    Raises:
        ConfigurationError: when the event log holds nothing of this namespace, or another backfill
            of the same views writes at the same time.
    """
    plans = [plan] if isinstance(plan, Plan) else list(plan)
    topics = Topics(namespace=plans[0].project)
    views = [view for one in plans for view in streamed_views(one)]
    wanted = sorted({v.state_name for v in views} & set(states or [v.state_name for v in views]))
    job = _begin(event_log_dir, folder, topics, wanted, anew)
    positions = {TopicPartition(t, p): end for t, p, end, _ in job.ends}
    span = LogSpan(event_log_dir=event_log_dir, topics=topics, ends=positions)
    total = span.num_events()
    marker = folder / _SHUFFLED_FILE
    if not marker.exists():
        told: Callable[[int], None] = lambda n: progress("events laid out", n, total)  # noqa: E731
        _leave(marker, b"%d" % shuffle(span, folder, job.num_parts, told))
    places: list[tuple[_Place, int]] = [(s, p) for s in SIDES for p in range(job.num_parts)]
    for place in ("item", "user", "log"):
        mine = {v.state_name for v in views if _place_of(v) == place} & set(wanted)
        parts = [(side, part) for side, part in places if side == place] or [("log", 0)]
        for at, part in parts:
            done = folder / f"done-{place}-{part}{token and '-' + token}"
            if not done.exists():
                stream = FeatureStream(
                    _only(plans, mine), _Seen(store, anew, place), topics, max_remembered=2**62
                )
                source = _log(span) if at == "log" else _part(folder, place, part)
                if mine or (place == "item" and anew):
                    keys = _write(_told(stream, source), store, writer, anew)
                else:
                    keys = np.empty(0, np.int64)
                np.save(folder / f"{place}-{part}.{_KEYS_FILE}", keys)
                _leave(done, b"")
            progress(f"{place} entities", part + 1, len(parts))
    hashes = [np.load(path) for path in sorted(folder.glob(f"*.{_KEYS_FILE}"))]
    distinct = np.unique(np.concatenate(hashes))
    return Backfilled(
        positions=positions,
        bases={TopicPartition(t, p): base for t, p, _, base in job.ends},
        layout=layout_of(plans),
        num_events=int(marker.read_bytes()),
        num_entities=len(distinct),
        key_hashes=distinct,
    )


def work_folder(state_dir: Path) -> Path:
    """Give where a backfill of everything lays the event log out by entity."""
    return state_dir / "backfill"


def views_folder(state_dir: Path) -> Path:
    """Give the folder in which views are computed while others are served."""
    return state_dir / "backfill-views"


def states_of_job(folder: Path) -> list[str]:
    """Give the states a folder of work is of; none when there is no work."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / _JOB_FILE).read_bytes(), type=_Job).states
    return []


def _begin(
    event_log_dir: Path, folder: Path, topics: Topics, states: list[str], anew: bool
) -> _Job:
    """Go on with what the folder holds, or begin at the present end of the log."""
    path = folder / _JOB_FILE
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        job = msgspec.json.decode(path.read_bytes(), type=_Job)
        if (job.states, job.anew, job.event_log_dir) == (states, anew, str(event_log_dir)):
            return job
    last = [
        (topic, partition, one.range.last + 1, one.commit.base)
        for topic in (topics.items, topics.behaviour)
        for partition, one in ends(event_log_dir, topic).items()
    ]
    if not last:
        raise ConfigurationError(
            f"wanted events of {topics.items} and {topics.behaviour} in {event_log_dir}, found "
            "none; the stream worker writes them (`recsys up`)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for old in (path, *folder.glob("done-*"), *folder.glob(f"*.{_KEYS_FILE}")):
        old.unlink(missing_ok=True)
    (folder / _SHUFFLED_FILE).unlink(missing_ok=True)
    ended = {TopicPartition(t, p): end for t, p, end, _ in last}
    span = LogSpan(event_log_dir=event_log_dir, topics=topics, ends=ended)
    job = _Job(
        event_log_dir=str(event_log_dir),
        states=states,
        anew=anew,
        num_parts=1 + span.num_events() // PART_EVENTS,
        ends=last,
    )
    _leave(path, msgspec.json.encode(job))
    return job


def _leave(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _place_of(view: View) -> _Place:
    """Give by whose hash the entities of a view are parted.

    Those of a category alone are few, and told the whole log in order.
    """
    if "user_id" in view.join_keys:
        return "user"
    return "item" if "item_id" in view.join_keys else "log"


def _only(plans: Sequence[Plan], states: set[str]) -> list[Plan]:
    return [
        msgspec.structs.replace(
            plan, views=tuple(v for v in streamed_views(plan) if v.state_name in states)
        )
        for plan in plans
    ]


@dataclass(frozen=True)
class _Seen:
    """What a stream of one part sees of the store: anew, only the categories told before."""

    store: HashReader
    anew: bool
    place: _Place

    def read(self, wanted: Wanted) -> Found:
        if not self.anew:
            return self.store.read(wanted)
        some = [(key, [CATEGORIES_FIELD]) for key, names in wanted if CATEGORIES_FIELD in names]
        if self.place == "item" or not some:
            return [[None] * len(names) for _, names in wanted]
        said = iter(self.store.read(some))
        found: Found = []
        for _, names in wanted:
            seen: list[bytes | None] = [None] * len(names)
            if CATEGORIES_FIELD in names:
                (seen[list(names).index(CATEGORIES_FIELD)],) = next(said)
            found.append(seen)
        return found


def _part(folder: Path, place: _Place, part: int) -> Iterator[BatchColumns]:
    assert place != "log"
    for rows, told in batches(folder, place, part):
        yield columns_of_rows(rows, told)


def _log(span: LogSpan) -> Iterator[BatchColumns]:
    for frame, base in span.frames():
        yield columns_of_rows(*rows_of_frame(frame, base))


def _told(stream: FeatureStream, source: Iterator[BatchColumns]) -> list[Write]:
    """Give one write for each entity told anything, with the version it was read at."""
    whole: dict[bytes, Write] = {}
    for columns in source:
        for write in stream.apply_columns(columns):
            before = whole.setdefault(write.key, write)
            if before is not write:
                whole[write.key] = before._replace(fields=merged(before.fields, write.fields))
    return list(whole.values())


def _write(writes: list[Write], store: HashReader, writer: HashWriter, anew: bool) -> Int64s:
    """Write a part; gives the hashes of its keys, sorted."""
    if anew:
        writes = [Write(key, fields, ANY_VERSION, remove) for key, fields, _, remove in writes]
    else:
        # What items are called is in the store already, from more of the log than this.
        writes = [write._replace(fields=_without_categories(write.fields)) for write in writes]
    for start in range(0, len(writes), _WRITE_AT_ONCE):
        some = writes[start : start + _WRITE_AT_ONCE]
        while refused := set(writer.write(some)):
            some = _again([write for write in some if write.key in refused], store)
    return np.sort(_key_hashes([write.key for write in writes]))


def _without_categories(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in fields.items() if name != CATEGORIES_FIELD}


def _key_hashes(keys: Sequence[bytes]) -> Int64s:
    return identity_hashes([key.hex() for key in keys])


def _again(writes: list[Write], store: HashReader) -> list[Write]:
    """Give the writes that were refused because others wrote the same hashes since.

    Others do not write the states of these views, so what was computed of them still holds.
    """
    found = store.read([(write.key, [VERSION_FIELD]) for write in writes])
    return [
        write._replace(version=version_of(version))
        for write, (version,) in zip(writes, found, strict=True)
    ]
