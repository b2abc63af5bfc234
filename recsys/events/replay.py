"""History as events: an iterator of events into the log, at a rate or as fast as it goes.

A replay that was interrupted goes on where the log had acknowledged it, when the same iterator is
given again. What was sent in the moment of the interruption is sent twice with the same event ids,
which consumers count once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from recsys.errors import InputError
from recsys.events.codec import encode
from recsys.events.durable_files import make_directory, write_durably
from recsys.events.log import EventWriter
from recsys.events.schema import Event, ItemEvent
from recsys.events.topics import Topics
from recsys.telemetry import EVENTS_ACCEPTED

_BEFORE_S = 0.002
"""Pause between item events and behaviour: the log tells times apart by the millisecond."""
Progress = Callable[[int, int], None]
"""Called with the events acknowledged so far and the newest event time (ms)."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """How to replay."""

    rate_per_s: float | None = None
    """Events per second; ``None`` is as fast as the log takes them."""
    flush_every_s: float = 1.0
    """Time between two acknowledgements: what an interruption may send twice."""

    def __post_init__(self) -> None:
        if self.rate_per_s is not None and not self.rate_per_s > 0:
            raise InputError(f"wanted a rate above 0 events a second, found {self.rate_per_s}")

    @property
    def burst(self) -> int:
        """Events between two looks at the clock: a fiftieth of a second of them."""
        return 500 if self.rate_per_s is None else min(500, max(1, int(self.rate_per_s / 50)))


class _Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How far a replay of ``source`` came."""

    source: str
    num_acknowledged: int


def read_checkpoint(path: Path, source: str) -> int:
    """Give how many events of ``source`` are in the log already; 0 without a file.

    Raises:
        InputError: when the file is of another source.
    """
    if not path.is_file():
        return 0
    try:
        checkpoint = msgspec.json.decode(path.read_bytes(), type=_Checkpoint)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: wanted a checkpoint of a replay, found something else ({error}); "
            "remove it to begin again"
        ) from error
    if checkpoint.source != source:
        raise InputError(
            f"{path}: wanted the checkpoint of {source!r}, found that of {checkpoint.source!r}; "
            "remove it to begin again"
        )
    return checkpoint.num_acknowledged


def replay(
    events: Iterator[Event],
    writer: EventWriter,
    topics: Topics,
    *,
    config: ReplayConfig = ReplayConfig(),
    checkpoint: Path | None = None,
    source: str = "",
    progress: Progress | None = None,
    monotonic_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Send ``events`` in their order, but each burst's item events first, and before the behaviour
    by the log's clock; give how many are in the log in the end.

    Args:
        events: The whole history, the same at each attempt.
        writer: Where to.
        topics: Names of the topics, which exist.
        config: Rate and flushes.
        checkpoint: File that remembers how far it came; ``None`` begins anew each time.
        source: What ``events`` is (data set, shift, seed): a checkpoint of another is refused.
        progress: Called after each flush.
        monotonic_s: The clock of the rate.
        sleep: Waits for the rate.

    Raises:
        ServerError: when the log does not take them. Call again with the same arguments.
    """
    num_done = read_checkpoint(checkpoint, source) if checkpoint else 0
    if num_done:
        next(islice(events, num_done - 1, num_done), None)  # passes over them
    append, route = writer.append, topics.route
    begin_s = flushed_s = monotonic_s()
    num_sent = 0
    kinds: Counter[str] = Counter()
    while batch := list(islice(events, config.burst)):
        # Items of a burst go first: behaviour counts in the category that was known before it.
        batch.sort(key=_is_behaviour)
        items_on_the_way = not _is_behaviour(batch[0])
        for event in batch:
            if items_on_the_way and _is_behaviour(event):
                writer.flush()
                sleep(_BEFORE_S)
                items_on_the_way = False
            topic, key = route(event)
            append(topic, key, encode(event))
            kinds[event.__struct_config__.tag] += 1  # type: ignore[index]  # ours are strings
        num_sent += len(batch)
        now_s = monotonic_s()
        if now_s - flushed_s >= config.flush_every_s:
            num_done += _acknowledge(writer, kinds)
            flushed_s = now_s
            _remember(checkpoint, source, num_done)
            if progress:
                progress(num_done, batch[-1].event_time_ms)
        if config.rate_per_s is not None:
            sleep(max(0.0, begin_s + num_sent / config.rate_per_s - monotonic_s()))
        last_ms = batch[-1].event_time_ms
    if kinds:
        num_done += _acknowledge(writer, kinds)
        _remember(checkpoint, source, num_done)
        if progress:
            progress(num_done, last_ms)
    return num_done


def _is_behaviour(event: Event) -> bool:
    return not isinstance(event, ItemEvent)


def _acknowledge(writer: EventWriter, kinds: Counter[str]) -> int:
    """Wait until the log has what was sent; give how many events that is."""
    writer.flush()
    for kind, count in kinds.items():
        EVENTS_ACCEPTED.labels(kind=kind).inc(count)
    num_acknowledged = kinds.total()
    kinds.clear()
    return num_acknowledged


def _remember(checkpoint: Path | None, source: str, num_done: int) -> None:
    if checkpoint is not None:
        make_directory(checkpoint.parent)
        document = _Checkpoint(source=source, num_acknowledged=num_done)
        write_durably(checkpoint, msgspec.json.encode(document))
