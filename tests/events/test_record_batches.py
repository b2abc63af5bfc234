"""Record batches are taken apart as kafka-python does it, whatever is in them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from recsys.events.kafka.record_batches import PartitionRecords, as_records, take_apart
from recsys.events.log import Record

AT = TopicPartition("behaviour", 3)
NOW_MS = 1_796_251_000_000
CODECS = {"none": 0, "gzip": 1, "lz4": 3, "zstd": 4}  # snappy needs what we do not install

texts = st.one_of(st.none(), st.binary(max_size=70), st.integers(0, 70_000).map(lambda n: b"x" * n))
headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=2)
moments = st.one_of(
    st.integers(-70, 70), st.integers(-(10**4), 10**4), st.integers(-(10**10), 10**10)
)
rows = st.lists(st.tuples(moments, texts, texts, headers), min_size=1, max_size=150)


def batch_of(
    some: list[tuple[int, bytes | None, bytes | None, list[Any]]],
    *,
    offset: int = 0,
    codec: str = "none",
    magic: int = 2,
    attributes: int = 0,
) -> bytes:
    """Give one batch as a broker stores it; ``attributes`` are set besides the codec."""
    builder = MemoryRecordsBuilder(magic, CODECS[codec], 1 << 30)
    for after_ms, key, value, more in some:
        stamped = {"headers": more} if magic == 2 else {}
        assert builder.append(NOW_MS + after_ms, key, value, **stamped) is not None
    builder.close()
    data = bytearray(builder.buffer())
    if magic == 2:
        struct.pack_into(">q", data, 0, offset)
        (flags,) = struct.unpack_from(">h", data, DefaultRecordBatch.ATTRIBUTES_OFFSET)
        flags |= attributes
        struct.pack_into(">h", data, DefaultRecordBatch.ATTRIBUTES_OFFSET, flags)
        signed(data)
    return bytes(data)


def signed(data: bytearray) -> bytes:
    """Put the right checksum into a batch."""
    crc = calc_crc32c(memoryview(data)[DefaultRecordBatch.ATTRIBUTES_OFFSET :])
    struct.pack_into(">I", data, DefaultRecordBatch.CRC_OFFSET, crc)
    return bytes(data)


def read_by(kind: Any, data: bytes, *, first: int = 0, at_once: int = 10**6) -> Any:
    """Give the records of each portion, and where the next fetch begins after it."""
    part = kind(first, AT, MemoryRecords(data))
    portions = []
    while part:
        taken = part.take(at_once)
        records = list(as_records(AT.topic, AT.partition, taken)) if taken else []
        portions.append((records, part.next_fetch_offset, part.leader_epoch))
    return portions, part.bytes_read > 0, part.records_read


@given(
    batches=st.lists(st.tuples(rows, st.sampled_from(list(CODECS))), min_size=1, max_size=3),
    first=st.integers(0, 40),
    at_once=st.sampled_from([1, 7, 64, 10**6]),
    gap=st.sampled_from([0, 5, 10**9]),
    attributes=st.sampled_from([0, DefaultRecordBatch.TIMESTAMP_TYPE_MASK]),
)
def test_every_batch_reads_as_kafka_python_reads_it(
    batches: Any, first: int, at_once: int, gap: int, attributes: int
) -> None:
    """Keys, values, times, offsets; from the middle of a batch; in portions; whatever the codec."""
    data, offset = b"", 0
    for some, codec in batches:
        data += batch_of(some, offset=offset, codec=codec, attributes=attributes)
        offset += len(some) + gap
    wanted = read_by(Fetcher.PartitionRecords, data, first=first, at_once=at_once)
    assert read_by(PartitionRecords, data, first=first, at_once=at_once) == wanted


@pytest.mark.parametrize("magic", [0, 1])
def test_formats_of_old_brokers_are_left_to_kafka_python(magic: int) -> None:
    """Format 0 and 1, which have no batch around their records."""
    data = batch_of([(n, b"k", b"v%d" % n, []) for n in range(5)], magic=magic)
    wanted = read_by(Fetcher.PartitionRecords, data, at_once=2)
    assert read_by(PartitionRecords, data, at_once=2) == wanted


def test_marks_of_transactions_are_no_records() -> None:
    """A control batch between two others moves the position, and gives nothing."""
    mark = batch_of(
        [(0, struct.pack(">hh", 0, 1), b"", [])],
        offset=3,
        attributes=DefaultRecordBatch.CONTROL_MASK | DefaultRecordBatch.TRANSACTIONAL_MASK,
    )
    before = batch_of([(n, b"k", b"a", []) for n in range(3)])
    after = batch_of([(n, b"k", b"b", []) for n in range(2)], offset=4)
    for data in (before + mark + after, before + mark, mark + after):
        for at_once in (1, 3, 100):
            wanted = read_by(Fetcher.PartitionRecords, data, at_once=at_once)
            assert read_by(PartitionRecords, data, at_once=at_once) == wanted


def test_a_flipped_bit_is_found_by_the_checksum() -> None:
    """The message says of which partition and offset."""
    data = bytearray(batch_of([(0, b"k", b"value", [])], offset=7))
    data[-4] ^= 1
    with pytest.raises(CorruptRecordError, match=r"behaviour.*partition=3.*offset 7"):
        read_by(PartitionRecords, bytes(data), first=7)


@given(place=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 40))
@example(place=150, byte=0, cut=0)  # an offset that goes back
def test_a_body_that_is_not_records_is_refused(place: int, byte: int, cut: int) -> None:
    """With the right checksum: it gives what kafka-python gives, or an error, and never hangs."""
    some = [(n * 50, b"key%d" % n, b"v" * n * 9, []) for n in range(12)]
    data = bytearray(batch_of(some))
    header = DefaultRecordBatch.HEADER_STRUCT.size
    data[header + place % (len(data) - header)] = byte
    if cut:
        del data[-cut:]
        struct.pack_into(">i", data, 8, len(data) - DefaultRecordBatch.AFTER_LEN_OFFSET)
    body = signed(data)
    try:
        wanted, *_ = read_by(Fetcher.PartitionRecords, body)
    except (CorruptRecordError, UnicodeDecodeError):
        wanted = None
    try:
        found, *_ = read_by(PartitionRecords, body)
    except CorruptRecordError:
        found = None
    if found is None:
        # What comes before the fault may have been given by kafka-python; we give nothing of it.
        assert wanted is None or not is_plain(wanted, some)
    elif wanted is not None:
        assert found == wanted


def is_plain(portions: Any, some: list[Any]) -> bool:
    """Say whether all of these rows were read, unchanged."""
    values = [(one.key, one.value) for records, *_ in portions for one in records]
    return values == [(key, value) for _, key, value, _ in some]


def test_a_consumer_of_another_release_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Its records are understood as they are."""

    class Consumer:
        _fetcher = object()

    take_apart(Consumer())
    assert "not known" in caplog.text
    data = batch_of([(0, b"k", b"v", [])])
    taken = Fetcher.PartitionRecords(0, AT, MemoryRecords(data)).take(1)
    assert as_records(AT.topic, AT.partition, taken) == [
        Record("behaviour", 3, 0, b"k", b"v", NOW_MS)
    ]
