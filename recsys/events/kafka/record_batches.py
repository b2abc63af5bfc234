"""Takes fetched record batches apart: kafka-python's way, at a fraction of its time.

kafka-python calls seven functions for each record and fills an object of 13 fields, of which we
keep six: that was more of a stream worker's time than its features. Here a batch of format 2
("Message Format" of the Kafka protocol guide, the only one brokers write since 2017; older ones
are left to kafka-python) is read in one loop, in which a number of one or two bytes, nearly every
one there is, costs no call. All around it stays kafka-python's: fetching, positions, checksums,
compression.

``take_apart`` reaches into its ``Fetcher``. Where a release has it no more the consumer stays as
it was, which ``as_records`` understands as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch

from recsys.events.log import Record

logger = logging.getLogger(__name__)

_new = tuple.__new__
_FORMAT = 2


def take_apart(consumer: Any) -> None:
    """Let a ``KafkaConsumer`` that reads uncommitted records, too, give ``Record``."""
    fetcher: Any = getattr(consumer, "_fetcher", None)
    if getattr(fetcher, "PartitionRecords", None) is not Fetcher.PartitionRecords:
        logger.warning("this kafka-python is not known; its records are taken apart by itself")
    elif consumer.config["isolation_level"] == "read_uncommitted":
        fetcher.PartitionRecords = PartitionRecords


def as_records(topic: str, partition: int, polled: Sequence[Any]) -> Sequence[Record]:
    """Give what a consumer polled of one partition, whoever took it apart."""
    if isinstance(polled[0], Record):
        return polled
    return [Record(topic, partition, r.offset, r.key, r.value or b"", r.timestamp) for r in polled]


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What one fetch gave of one partition, to be taken in portions."""

    def take(self, n: int | None = None) -> list[Record]:
        """Give the next records, at most ``n``."""
        records: list[Record] = super().take(n)
        if records and self.record_iterator is not None:
            self.next_fetch_offset = records[-1].offset + 1  # drained, it is the batch's end
        return records

    def _unpack_records(
        self, tp: Any, records: Any, key_deserializer: Any, value_deserializer: Any
    ) -> Iterator[Record]:
        batch = last = records.next_batch()
        while batch is not None:
            last = batch
            self._check(batch)
            if batch.magic == _FORMAT:
                self.leader_epoch = batch.leader_epoch
            if batch.magic != _FORMAT:
                yield from self._old_records(tp, batch)
            elif not batch.is_control_batch:
                found = records_of(batch, tp.topic, tp.partition)
                self.records_read += len(found)
                self.bytes_read += batch.size_in_bytes
                yield from found
            else:
                self.next_fetch_offset = batch.next_offset
            batch = records.next_batch()
        if last is not None and last.magic == _FORMAT:
            self.next_fetch_offset = last.next_offset
        self.drain()

    def _check(self, part: Any) -> None:
        if self.check_crcs and not part.validate_crc():
            raise CorruptRecordError(
                f"{self.topic_partition}: wanted records as they were written, found another "
                f"checksum from offset {getattr(part, 'base_offset', self.next_fetch_offset)} on"
            )

    def _old_records(self, tp: Any, batch: Any) -> Iterator[Record]:
        for one in batch:
            self._check(one)
            self.records_read += 1
            self.bytes_read += one.size_in_bytes
            self.next_fetch_offset = one.offset + 1
            value = one.value or b""
            yield Record(tp.topic, tp.partition, one.offset, one.key, value, one.timestamp)


def records_of(batch: DefaultRecordBatch, topic: str, partition: int) -> list[Record]:
    """Give the records of a batch of format 2. Their headers are left out.

    A record without a value has an empty one.

    Raises:
        CorruptRecordError: when they are not as long as they say, or there are fewer or more.
    """
    batch._maybe_uncompress()
    body = bytes(memoryview(batch._buffer)[batch._pos :])
    base_offset, first_ms = batch.base_offset, batch.first_timestamp
    # The broker's clock, where the topic asks for it; else the sender's.
    append_ms = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else None
    found: list[Record] = []
    at = 0  # Numbers are in zigzag: 0, -1, 1, -2, …
    try:
        for _ in range(batch.records_count):
            length = body[at]
            at += 1
            if length >= 0x80:
                more = body[at]
                at += 1
                length += (more - 1) << 7
                if more >= 0x80:
                    length, at = _number(body, at, length, 14)
            end = at + ((length >> 1) ^ -(length & 1))
            at += 1  # attributes, of which there are none yet
            delta_ms = body[at]
            at += 1
            if delta_ms >= 0x80:
                delta_ms, at = _number(body, at, delta_ms, 7)
            offset = body[at]
            at += 1
            if offset >= 0x80:
                more = body[at]
                at += 1
                offset += (more - 1) << 7
                if more >= 0x80:
                    offset, at = _number(body, at, offset, 14)
            size = body[at]
            at += 1
            if size >= 0x80:
                size, at = _number(body, at, size, 7)
            key = None
            if not size & 1:
                size >>= 1
                key = body[at : at + size]
                at += size
            size = body[at]
            at += 1
            if size >= 0x80:
                more = body[at]
                at += 1
                size += (more - 1) << 7
                if more >= 0x80:
                    size, at = _number(body, at, size, 14)
            value = b""  # none at all is no event, either
            if not size & 1:
                size >>= 1
                value = body[at : at + size]
                at += size
            if at >= end or (body[at] == 0 and at + 1 != end):
                raise _corrupt(batch, f"a record whose fields end at byte {at}, not {end}")
            at = end
            found.append(
                _new(
                    Record,
                    (
                        topic,
                        partition,
                        base_offset + ((offset >> 1) ^ -(offset & 1)),
                        key,
                        value,
                        first_ms + ((delta_ms >> 1) ^ -(delta_ms & 1))
                        if append_ms is None
                        else append_ms,
                    ),
                )
            )
    except IndexError as error:
        raise _corrupt(batch, f"{len(found)} of {batch.records_count} records") from error
    if at != len(body):
        raise _corrupt(batch, f"{len(body) - at} bytes behind the last record")
    return found


def _number(body: bytes, at: int, number: int, shift: int) -> tuple[int, int]:
    """Give the rest of a varint, and where the next field begins.

    ``number`` is what its bytes before ``at`` add up to, ``shift`` bits, the mark that it goes on
    included.
    """
    while True:
        byte = body[at]
        at += 1
        number += (byte - 1) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _corrupt(batch: DefaultRecordBatch, found: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"wanted the records of a batch at offset {batch.base_offset}, found {found}"
    )
