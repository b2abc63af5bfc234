"""Records that are no events: kept with their bytes, shown, and sent again after a fix.

A reader that cannot decode a record writes a dead letter and goes on. The letter names the reason
and where the record lies, and carries the record itself, so that nothing depends on how long the
original topic keeps it. Letters are keyed like their record: those of one user keep their order.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from recsys.errors import EventError, InputError
from recsys.events.codec import decode
from recsys.events.log import EventReader, EventWriter, Record, TopicPartition
from recsys.events.schema import Event
from recsys.events.topics import Topics
from recsys.telemetry import DEAD_LETTERS

REPLAY_BATCH = 1_000
"""Letters judged between two commits of a replay."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record that could not be read, and why."""

    reason: str
    """Wanted and found."""
    field: str
    """Path of the wrong field; ``""`` when the whole is wrong."""
    code: str
    """``malformed``, ``schema``, ``time`` or ``duplicate``, see ``EventError.code``."""
    topic: str
    partition: int
    offset: int
    ingest_time_ms: int
    """When the original topic received it."""
    key_base64: str | None
    value_base64: str
    """The original bytes."""

    @property
    def key(self) -> bytes | None:
        """The original key."""
        return None if self.key_base64 is None else base64.b64decode(self.key_base64)

    @property
    def value(self) -> bytes:
        """The original bytes."""
        return base64.b64decode(self.value_base64)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeadLetter).decode


def dead_letter(record: Record, error: EventError) -> DeadLetter:
    """Give the letter for a record that ``codec.decode`` refused."""
    return DeadLetter(
        reason=str(error),
        field=error.field,
        code=error.code,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        ingest_time_ms=record.timestamp_ms,
        key_base64=None if record.key is None else base64.b64encode(record.key).decode(),
        value_base64=base64.b64encode(record.value).decode(),
    )


def send_dead_letter(
    writer: EventWriter, dead_letter_topic: str, record: Record, error: EventError
) -> None:
    """Hand the letter for ``record`` to the writer and count it; ``flush`` makes it safe.

    Flush before storing a position after ``record``, or a crash between the two loses the letter.
    """
    letter = dead_letter(record, error)
    writer.append(dead_letter_topic, record.key or b"", _encode(letter))
    DEAD_LETTERS.labels(topic=record.topic).inc()


def open_letter(record: Record) -> DeadLetter:
    """Read a record of the dead-letter topic.

    Raises:
        InputError: when somebody else wrote something else there.
    """
    try:
        letter = _decode(record.value)
        base64.b64decode(letter.value_base64, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error) as error:
        raise InputError(
            f"{record.topic}[{record.partition}] offset {record.offset}: wanted a dead letter, "
            f"found something else: {error}"
        ) from error
    return letter


def read_letters(
    reader: EventReader, ends: Mapping[TopicPartition, int], *, timeout_ms: int = 5_000
) -> Iterator[Record]:
    """Give the records of the dead-letter topic up to ``ends`` (see ``latest_positions``)."""
    while any(reader.positions()[at] < ends.get(at, 0) for at in reader.assignment()):
        records = reader.poll(timeout_ms=timeout_ms, max_records=REPLAY_BATCH)
        if not records:
            return
        for record in records:
            if record.offset < ends.get(TopicPartition(record.topic, record.partition), 0):
                yield record


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """What ``replay`` did."""

    num_sent: int
    """Letters whose event is valid now: sent to their original topic."""
    num_left: int
    """Letters whose event is still refused; they stay, and a later replay judges them again."""
    num_unreadable: int
    """Records of the topic that are no letters."""
    num_sent_before: int
    """Letters an earlier replay already sent."""


def replay(
    reader: EventReader,
    writer: EventWriter,
    ends: Mapping[TopicPartition, int],
) -> ReplayReport:
    """Judge every letter with the present schema and send those that are events now.

    Letters of one key go out in the order they came in, with their original key. Running it again
    sends nothing twice: a letter is marked as sent, by a record in the same partition, as soon as
    the log has acknowledged its event. What was sent in the moment of a crash is sent again with
    the same event id, which consumers count once. The committed position of a partition stops at
    the first letter that is left, so that the next replay does not read everything.

    Args:
        reader: Of the dead-letter topic, all partitions, in a group of its own.
        writer: To all topics.
        ends: Where to stop, per partition: letters that arrive meanwhile wait for the next replay.
    """
    start = reader.positions()
    marks = read_marks(reader, ends)
    reader.seek(start)
    settled = {at: ends[at] for at in reader.assignment() if at in ends}
    pending: list[tuple[Record, DeadLetter, Event]] = []
    num_sent = num_left = num_unreadable = num_before = 0
    for record in read_letters(reader, ends):
        if is_mark(record):
            continue
        at = TopicPartition(record.topic, record.partition)
        if (at, record.offset) in marks:
            num_before += 1
            continue
        try:
            letter = open_letter(record)
        except InputError:
            num_unreadable += 1
            continue
        try:
            event = decode(letter.value)
        except EventError:
            num_left += 1
            settled[at] = min(settled[at], record.offset)
            continue
        num_sent += 1
        pending.append((record, letter, event))
        if len(pending) >= REPLAY_BATCH:
            _send(writer, pending)
            pending = []
    _send(writer, pending)
    reader.commit(settled)
    return ReplayReport(
        num_sent=num_sent,
        num_left=num_left,
        num_unreadable=num_unreadable,
        num_sent_before=num_before,
    )


def withdraw(
    reader: EventReader,
    writer: EventWriter,
    ends: Mapping[TopicPartition, int],
    user_id: str,
    *,
    dry_run: bool = False,
) -> Withdrawn:
    """Mark the waiting letters of a user as sent, so that no ``replay`` ever sends them.

    A letter is the user's when its key is, or when its bytes say so as far as they can be read.

    Args:
        reader: Of the dead-letter topic, all partitions, from the beginning.
        writer: To the dead-letter topic.
        ends: Where to stop, per partition.
        user_id: Whose letters.
        dry_run: Only count.
    """
    start = reader.positions()
    marks = read_marks(reader, ends)
    reader.seek(start)
    num_letters = 0
    waiting: list[Record] = []
    for record in read_letters(reader, ends):
        if is_mark(record):
            continue
        num_letters += 1
        at = TopicPartition(record.topic, record.partition)
        if (at, record.offset) not in marks and _is_of(record, user_id):
            waiting.append(record)
    if waiting and not dry_run:
        writer.append_all(
            (record.topic, record.key or b"", _encode(_Mark(sent_offset=record.offset)))
            for record in waiting
        )
    return Withdrawn(num_letters=num_letters, num_withdrawn=len(waiting))


@dataclass(frozen=True, kw_only=True)
class Withdrawn:
    """What ``withdraw`` found."""

    num_letters: int
    """Letters looked at."""
    num_withdrawn: int
    """Those of the user that would have been sent."""


class _Whose(msgspec.Struct):
    user_id: str | None = None


_decode_whose = msgspec.json.Decoder(_Whose).decode


def _is_of(record: Record, user_id: str) -> bool:
    if record.key == user_id.encode():
        return True
    try:
        return _decode_whose(open_letter(record).value).user_id == user_id
    except (InputError, msgspec.MsgspecError, ValueError, RecursionError):
        return False


class _Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Says in the dead-letter topic that a letter of the same partition was sent."""

    sent_offset: int


_decode_mark = msgspec.json.Decoder(_Mark).decode


def is_mark(record: Record) -> bool:
    """Say whether a record of the dead-letter topic only marks another one as sent."""
    return record.value.startswith(b'{"sent_offset":')


def read_marks(
    reader: EventReader, ends: Mapping[TopicPartition, int]
) -> set[tuple[TopicPartition, int]]:
    """Give the places of the letters that were sent, from where the reader stands to ``ends``."""
    return {
        (
            TopicPartition(record.topic, record.partition),
            _decode_mark(record.value).sent_offset,
        )
        for record in read_letters(reader, ends)
        if is_mark(record)
    }


def _send(writer: EventWriter, pending: list[tuple[Record, DeadLetter, Event]]) -> None:
    """Send events and wait; then mark their letters and wait."""
    if not pending:
        return
    route = Topics().route
    writer.append_all(
        (letter.topic, letter.key or route(event)[1], letter.value) for _, letter, event in pending
    )
    writer.append_all(
        # The letter's own key: the mark lands in the partition of its letter.
        (record.topic, record.key or b"", _encode(_Mark(sent_offset=record.offset)))
        for record, _, _ in pending
    )
