"""Records looked at in runs say what each alone would have said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recsys.events.log import Record, TopicPartition
from recsys.events.schema import Event, InteractionEvent, ItemEvent
from recsys.events.topics import Topics
from recsys.features.duplicates import DuplicateWindow
from recsys.features.hashes import VERSION_FIELD, MemoryHashes
from recsys.features.runs import Run, by_partition, known, runs_of
from recsys.features.stream import FeatureStream
from tests.features.worlds import small_plan

TOPICS = Topics(namespace="test")
T0 = 1_700_000_000_000


def record(partition: int, offset: int) -> Record:
    return Record("behaviour", partition, offset, None, b"", T0 + offset)


def click(event_id: str) -> InteractionEvent:
    return InteractionEvent(
        event_id=event_id, event_time_ms=T0, user_id="u", item_id="i", type="click"
    )


@given(
    batches=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), max_size=12),
    horizon=st.integers(0, 12),
)
def test_duplicates_of_a_batch_are_those_found_one_by_one(
    batches: list[list[str]], horizon: int
) -> None:
    together, single = DuplicateWindow(horizon), DuplicateWindow(horizon)
    log: list[str] = []
    for ids in batches:
        offsets = list(range(len(log), len(log) + len(ids)))
        log += ids
        alone = [single.seen_before(*one) for one in zip(ids, offsets, strict=True)]
        assert alone == [log[n] in log[max(0, n - horizon) : n] for n in offsets]
        assert together.duplicates(ids, offsets) == [n for n, seen in enumerate(alone) if seen]


@given(
    partitions=st.lists(st.integers(0, 2), max_size=20),
    refused=st.sets(st.integers(0, 19)),
    at=st.integers(0, 25),
)
def test_runs_hold_every_record_once_and_in_order(
    partitions: list[int], refused: set[int], at: int
) -> None:
    records = [record(partition, n) for n, partition in enumerate(partitions)]
    events = [None if n in refused else click(f"e{n}") for n in range(len(records))]
    runs = []
    for where, some in by_partition(records):
        assert {TopicPartition(r.topic, r.partition) for r in some} == {where}
        runs.append(Run(where, some, [events[r.offset] for r in some]))
    assert [pair for run in runs for pair in run.pairs()] == list(zip(records, events, strict=True))
    for run in runs:
        place = run.place(at)
        assert all(r.offset < at for r in run.part(0, place).records)
        assert all(r.offset >= at for r in run.part(place).records)
        assert [e for _, e in known(run).pairs()] == [e for e in run.events if e is not None]
        assert [r.offset for r in run.shifted(5).records] == [r.offset + 5 for r in run.records]
        assert run.without({0}).records == run.records[1:]
    pairs = [(r, e) for r, e in zip(records, events, strict=True) if e is not None]
    assert [pair for run in runs_of(pairs) for pair in run.pairs()] == pairs


def test_an_item_told_twice_is_kept_alike_however_batches_are_cut() -> None:
    def item(offset: int) -> tuple[Record, Event]:
        topic = TOPICS.items
        event = ItemEvent(event_id="same", event_time_ms=T0, item_id="i", category="tea")
        return Record(topic, 0, offset, None, b"", T0 + offset), event

    whole, parts = MemoryHashes(), MemoryHashes()
    plan = small_plan()
    whole.write(FeatureStream(plan, whole, TOPICS).apply([item(0), item(1)])[0])
    for offset in (0, 1):  # the second by a worker that began anew
        parts.write(FeatureStream(plan, parts, TOPICS).apply([item(offset)])[0])
    keys = set(whole.content) | set(parts.content)
    for key in keys:
        ours, theirs = (one.content[key] | {VERSION_FIELD: b""} for one in (whole, parts))
        assert ours == theirs
