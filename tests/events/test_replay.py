from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.errors import InputError, ServerError
from recsys.events.codec import decode
from recsys.events.memory import MemoryEventLog
from recsys.events.replay import ReplayConfig, read_checkpoint, replay
from recsys.events.schema import ItemEvent
from recsys.events.topics import Topics
from tests.events.conftest import Log, ReadAll
from tests.events.samples import DAY, click

HISTORY = [click(n, user=f"u{n % 7}", time_ms=DAY + n) for n in range(1200)]
ITEM = ItemEvent(event_id="item-1", event_time_ms=DAY, item_id="i1", title="Ä lamp")


def test_history_reaches_the_log_with_each_users_order(
    log: Log, new_name: Callable[[str], str], read_all: ReadAll
) -> None:
    topics = Topics(namespace=new_name("replay"))
    log.ensure_topics(topics.all())
    writer = log.writer()
    seen: list[tuple[int, int]] = []
    done = replay(
        iter([ITEM, *HISTORY]), writer, topics, progress=lambda n, at_ms: seen.append((n, at_ms))
    )
    writer.close()
    assert done == 1201
    assert seen[-1] == (1201, DAY + 1199)
    reader = log.reader(topics=[topics.items, topics.behaviour], group="g")
    by_user: dict[str, list[int]] = defaultdict(list)
    for record in read_all(reader, 1201):
        event = decode(record.value)
        if record.topic == topics.items:
            assert event == ITEM
        else:
            assert not isinstance(event, ItemEvent)
            by_user[event.user_id].append(event.event_time_ms)
    reader.close()
    assert sum(map(len, by_user.values())) == 1200
    assert all(times == sorted(times) for times in by_user.values())


def test_an_interrupted_replay_goes_on_where_it_was(tmp_path: Path) -> None:
    log = MemoryEventLog(num_partitions=1)
    topics = Topics()
    log.ensure_topics(topics.all())
    writer = log.writer()
    checkpoint = tmp_path / "deep" / "c.json"
    num_flushes = 0

    def failing_flush(timeout_s: float = 30.0) -> None:
        nonlocal num_flushes
        num_flushes += 1
        if num_flushes == 2:
            raise ServerError("broker gone")

    writer.flush = failing_flush  # type: ignore[method-assign]
    config = ReplayConfig(flush_every_s=0)

    def run() -> int:
        events = iter(HISTORY)
        return replay(events, writer, topics, config=config, checkpoint=checkpoint, source="h")

    with pytest.raises(ServerError):
        run()
    assert read_checkpoint(checkpoint, "h") == 500
    assert run() == 1200
    records = log.reader(topics=[topics.behaviour], group="g").poll(timeout_ms=0, max_records=9999)
    ids = [decode(record.value).event_id for record in records]
    assert list(dict.fromkeys(ids)) == [event.event_id for event in HISTORY]
    assert len(ids) == 1700  # the second batch was not acknowledged and went out twice
    assert run() == 1200
    with pytest.raises(InputError, match="remove it"):
        read_checkpoint(checkpoint, "another source")


def test_the_rate_is_kept() -> None:
    log = MemoryEventLog()
    topics = Topics()
    log.ensure_topics(topics.all())
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    replay(
        iter(HISTORY), log.writer(), topics, config=ReplayConfig(rate_per_s=100),
        monotonic_s=lambda: now_s[0], sleep=sleep,
    )  # fmt: skip
    assert now_s[0] == pytest.approx(12.0)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(InputError):
        ReplayConfig(rate_per_s=0)
