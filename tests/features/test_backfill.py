"""The backfill makes what the stream made, to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.clock import DAY_MS
from recsys.errors import ConfigurationError
from recsys.events.log import TopicPartition
from recsys.events.sink import EventSink
from recsys.features import backfill as backfills
from recsys.features import log_shuffle
from recsys.features.hashes import MemoryHashes
from recsys.features.stream import FeatureStream
from tests.features.worlds import TOPICS, in_log, random_events, small_plan, unversioned

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS


@pytest.mark.parametrize("batch_events", [70, 1_000_000])
def test_equals_the_stream(
    tmp_path: Path, batch_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_shuffle, "BATCH_EVENTS", batch_events)
    monkeypatch.setattr(backfills, "PART_EVENTS", batch_events)
    rng = np.random.default_rng(5)
    plan = small_plan()
    events = random_events(rng, start_ms=T0, span_ms=3 * DAY_MS, num_events=400, late_ms=DAY_MS)
    log = in_log(events, rng=rng)
    streamed = MemoryHashes()
    streamed.write(FeatureStream(plan, streamed, TOPICS).apply(log)[0])
    partitions = [TopicPartition(t, p) for t in (TOPICS.items, TOPICS.behaviour) for p in (0, 1)]
    sink = EventSink(tmp_path, partitions)
    sink.write(log)
    sink.close()
    told: list[tuple[str, int, int]] = []
    hashes = MemoryHashes()
    result = backfills.backfill(
        tmp_path, plan, hashes, hashes, tmp_path / "work",
        progress=lambda what, n, of: told.append((what, n, of)),
    )  # fmt: skip
    assert unversioned(hashes.content) == unversioned(streamed.content)
    assert result.num_entities == len(hashes.content)
    ends = {TopicPartition(r.topic, r.partition): r.offset + 1 for r, _ in log}
    assert result.positions == ends
    assert told[-1][1] == told[-1][2]


def test_an_empty_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="found none; the stream worker writes them"):
        hashes = MemoryHashes()
        backfills.backfill(tmp_path, small_plan(), hashes, hashes, tmp_path / "work")
