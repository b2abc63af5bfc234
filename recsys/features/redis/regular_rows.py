"""Rows that all look alike, taken off the wire as arrays instead of objects.

``N`` rows, ``W`` bytes of a row, ``T`` times of a row.

An HMGET of floats and vectors, every value there, is answered by rows that differ in nothing but
the floats and the event times at the end. Such answers are found, proved and cut with a few array
operations for hundreds of rows. What is proved is the framing: a row starts where the one before
ended, and every byte of it that is no payload is the one that was expected. So nothing that a
value may hold can be taken for framing. The first row that is anything else (a null, a gap, an
error, another type) makes the answer irregular, and all of it goes to the general parser.

>>> shape = RowShape([(b"5", 4)], 1)
>>> answer = b"*2\\r\\n$5\\r\\n5\\0\\0\\x80?\\r\\n$2\\r\\n\\x08\\x01\\r\\n"
>>> scan = RowScan([(1, shape)], buffer := bytearray(100))
>>> buffer[: len(answer)] = answer
>>> scan.advance(len(answer) - 1), scan.advance(len(answer))
(False, True)
>>> rows, = scan.rows()
>>> rows.floats(0, 1), rows.stamp(0, 0)
(array([[1.]], dtype=float32), b'\\x08\\x01')
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.batch import Float32s

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

MAX_STAMP = 12
"""Bytes of an event time of these days with microseconds, as protobuf has it."""
_STAMP_BYTES = 16
_FRAMED_STAMP = 24
"""Bytes that hold a framed time: ``$12``, twelve bytes and the ends of two lines."""
SLACK = 64
"""Bytes behind what has arrived that are looked at and disregarded."""
FRAMED_FLOAT = len(b"$5\r\n5") + 4 + len(b"\r\n")
"""Bytes from one float32 to the next."""
_FEW = 8
"""Rows up to which a loop is faster than arrays."""
_STAR = ord("*")
_UNKNOWN = 255


class Irregular(Exception):  # noqa: N818  (no error: another way to read what has come)
    """A row is not what was expected."""


class RowShape:
    """What the answer to an HMGET of some values and some event times looks like."""

    def __init__(self, values: Sequence[tuple[bytes, int]], num_times: int) -> None:
        """Each value is a head that never changes and so many bytes of payload."""
        pattern, known = bytearray(b"*%d\r\n" % (len(values) + num_times)), bytearray()
        self.payloads: list[int] = []
        """Where each payload begins in a row."""
        for head, size in values:
            pattern += b"$%d\r\n" % (len(head) + size) + head
            known += b"\xff" * (len(pattern) - len(known))
            self.payloads.append(len(pattern))
            pattern += bytes(size)
            known += bytes(size)
            pattern += b"\r\n"
        known += b"\xff" * (len(pattern) - len(known))
        self.size = len(pattern)
        """Bytes before the times."""
        self.num_times = num_times
        self.smallest = self.size + num_times * len(b"$0\r\n\r\n")
        self.largest = self.size + num_times * (len(b"$12\r\n\r\n") + MAX_STAMP)
        self.width = -(-self.size // 8) * 8
        self.pattern = int.from_bytes(pattern, "little")
        self.known = int.from_bytes(known, "little")
        padding = bytes(self.width - self.size)
        self.pattern_words: Words = np.frombuffer(bytes(pattern) + padding, dtype="<u8")
        self.known_words: Words = np.frombuffer(bytes(known) + padding, dtype="<u8")
        self.begins_with = self.pattern_words[0]


class RegularRows(NamedTuple):
    """Rows of one shape."""

    shape: RowShape
    cells: Bytes
    """``[N, W]``, framing and all."""
    stamps: Bytes
    """``[T, N, 16]``: the bytes of the times, zeros behind them."""
    stamp_sizes: Bytes
    """``[T, N]``."""

    def floats(self, first: int, count: int, step: int = 4) -> Float32s:
        """Give ``[N, count]`` floats from a payload on, each ``step`` bytes after the last."""
        num_rows, width = self.cells.shape
        found: Float32s = np.ndarray(
            (num_rows, count),
            dtype="<f4",
            buffer=self.cells,
            offset=self.shape.payloads[first] if num_rows else 0,
            strides=(width, step),
        ).copy()
        return found

    def stamp(self, time: int, row: int) -> bytes:
        """Give the bytes of one time."""
        return self.stamps[time, row, : self.stamp_sizes[time, row]].tobytes()


class RegularReplies(list[RegularRows]):
    """An answer whose rows are all regular, part by part."""


def part_of(found: Any, number: int, place: slice) -> Any:
    """Give the rows of one part of an answer, whichever way they were taken."""
    return found[number] if type(found) is RegularReplies else found[place]


class _Part:
    """Rows of one shape that are being taken."""

    def __init__(self, count: int, shape: RowShape) -> None:
        self.count = self.left = count
        self.shape = shape
        self.cells = np.empty((count, shape.width), dtype=np.uint8)
        self.ends = np.empty(count, dtype=np.int64)
        """Where the times of each row begin, in the buffer."""


class RowScan:
    """Takes rows off a buffer while it fills."""

    def __init__(self, parts: Sequence[tuple[int, RowShape]], buffer: bytearray) -> None:
        """``buffer`` holds ``size_of(parts)`` bytes at least."""
        self.limit = len(buffer) - SLACK - max(shape.width for _, shape in parts)
        """What comes goes before this place."""
        self._parts = [_Part(count, shape) for count, shape in parts]
        self._buffer = buffer
        self._place = 0
        self._at = 0

    def advance(self, end: int) -> bool:
        """Take what lies before ``end``; gives whether that was all.

        Raises:
            Irregular: a row that has come, or begun, is of no known shape, or more came than rows.
        """
        while self._place < len(self._parts):
            part = self._parts[self._place]
            while part.left:
                if part.left > _FEW and end - self._at > _FEW * part.shape.smallest:
                    self._take_many(part, end)
                if part.left and not self._take_one(part, end):
                    return False
            self._place += 1
        if self._at != end:
            raise Irregular
        return True

    def rows(self) -> RegularReplies:
        """Give what was taken, when all is there. Raises Irregular: a time is not framed."""
        return RegularReplies(
            RegularRows(part.shape, part.cells, *self._stamps(part)) for part in self._parts
        )

    def _take_one(self, part: _Part, end: int) -> bool:
        """Take the next row; gives whether it is there wholly."""
        shape, buffer, at = part.shape, self._buffer, self._at
        last = min(at + shape.size, end)
        row = buffer[at:last]
        wrong = (int.from_bytes(row, "little") ^ shape.pattern) & shape.known
        if last < at + shape.size:
            if wrong & ((1 << 8 * len(row)) - 1):
                raise Irregular
            return False
        if wrong:
            raise Irregular
        number = part.count - part.left
        part.ends[number] = last
        for _ in range(shape.num_times):
            found = _framed_stamp(buffer, last, end)
            if found is None:
                return False
            _, last = found
        part.cells[number, : shape.size] = np.frombuffer(row, dtype=np.uint8)
        part.left -= 1
        self._at = last
        return True

    def _take_many(self, part: _Part, end: int) -> None:
        """Take the rows that are there wholly, up to the first that is not as expected."""
        shape, at = part.shape, self._at
        starts = np.flatnonzero(np.frombuffer(self._buffer, np.uint8, end - at, at) == _STAR)
        starts += at
        starts = starts[self._at_every_place("<u8")[starts] == shape.begins_with][: part.left]
        if starts[-1:] > end - shape.smallest:
            starts = starts[: np.searchsorted(starts, end - shape.smallest, side="right")]
        if not len(starts) or starts[0] != at:
            return
        cells = self._at_every_place(f"V{shape.width}")[starts]
        words = cells.view("<u8").reshape(len(starts), -1)
        wrong = (words & shape.known_words) != shape.pattern_words
        ends = starts + shape.size
        after = ends
        pairs = self._at_every_place("<u2") if shape.num_times else None
        for _ in range(shape.num_times):
            assert pairs is not None
            # Of a row that has not come wholly, what lies behind it may be anything.
            after = after + _STEP.take(_SIZES.take(pairs[np.minimum(after, end) + 1]))
        count = len(starts)
        if after[-1] > end:
            count -= 1
        if wrong.any() or (starts[1:count] != after[: count - 1]).any():
            odd = wrong.any(axis=1)
            odd[1:] |= starts[1:] != after[:-1]
            odd |= after > end
            count = int(np.argmax(odd))
        if not count:
            return
        first = part.count - part.left
        part.cells[first : first + count] = words.view(np.uint8)[:count]
        part.ends[first : first + count] = ends[:count]
        part.left -= count
        self._at = int(after[count - 1])

    def _stamps(self, part: _Part) -> tuple[Bytes, Bytes]:
        shape = (part.shape.num_times, part.count)
        stamps = np.zeros((*shape, _STAMP_BYTES), dtype=np.uint8)
        sizes = np.empty(shape, dtype=np.uint8)
        after = part.ends
        if part.count <= _FEW:
            for row, at in enumerate(after.tolist()):
                for time in range(shape[0]):
                    found = _framed_stamp(self._buffer, at, len(self._buffer))
                    if found is None:
                        raise Irregular
                    stamp, at = found
                    sizes[time, row] = len(stamp)
                    stamps[time, row, : len(stamp)] = np.frombuffer(stamp, dtype=np.uint8)
            return stamps, sizes
        pairs = self._at_every_place("<u2")
        framed = self._at_every_place(f"V{_FRAMED_STAMP}")
        bodies = self._at_every_place(f"V{_STAMP_BYTES}")
        for time in range(shape[0]):
            size = sizes[time] = _SIZES.take(pairs[after + 1])
            words = framed[after].view("<u8").reshape(-1, 3)
            if ((words & _KNOWN.take(size, 0)) != _PATTERN.take(size, 0)).any():
                raise Irregular
            words = bodies[after + _HEAD.take(size)].view("<u8").reshape(-1, 2)
            stamps[time] = (words & _KEPT.take(size, 0)).view(np.uint8)
            after = after + _STEP.take(size)
        return stamps, sizes

    def _at_every_place(self, dtype: str) -> npt.NDArray[Any]:
        """Give what begins at each place of the buffer."""
        kind = np.dtype(dtype)
        return np.ndarray(
            (len(self._buffer) - kind.itemsize + 1,), kind, buffer=self._buffer, strides=(1,)
        )


def size_of(parts: Sequence[tuple[int, RowShape]]) -> int:
    """Give the bytes a buffer must have for the answer, and for what is looked at behind it."""
    return sum(count * shape.largest + shape.width for count, shape in parts) + SLACK


_HEADS = {b"$%d\r\n" % size: size for size in range(MAX_STAMP + 1)}


def _framed_stamp(buffer: bytearray, at: int, end: int) -> tuple[bytes, int] | None:
    """Give a time and where it ends; ``None`` when it has not come wholly."""
    head = bytes(buffer[at : min(at + 5, end)])
    if head[3:4] == b"\n":
        head = head[:4]
    size = _HEADS.get(head)
    if size is None:
        if at + len(head) == end and any(known.startswith(head) for known in _HEADS):
            return None
        raise Irregular
    begin = at + len(head)
    after = begin + size
    if buffer[after : min(after + 2, end)] != b"\r\n"[: max(0, min(2, end - after))]:
        raise Irregular
    return (bytes(buffer[begin:after]), after + 2) if after + 2 <= end else None


def _tables() -> tuple[Bytes, Words, Words, Words, Places, Places]:
    """Give what is known of a framed time by its size; of an unknown one, what never matches."""
    sizes = np.full(1 << 16, _UNKNOWN, dtype=np.uint8)
    known = np.zeros((_UNKNOWN + 1, _FRAMED_STAMP), dtype=np.uint8)
    pattern = np.zeros((_UNKNOWN + 1, _FRAMED_STAMP), dtype=np.uint8)
    kept = np.zeros((_UNKNOWN + 1, _STAMP_BYTES), dtype=np.uint8)
    heads = np.zeros(_UNKNOWN + 1, dtype=np.int64)
    steps = np.full(_UNKNOWN + 1, 1 << 40, dtype=np.int64)
    pattern[_UNKNOWN] = 1
    for head, size in _HEADS.items():
        sizes[int.from_bytes(head[1:3], "little")] = size
        after = len(head) + size
        for place, text in ((0, head), (after, b"\r\n")):
            known[size, place : place + len(text)] = 255
            pattern[size, place : place + len(text)] = list(text)
        kept[size, :size] = 255
        heads[size], steps[size] = len(head), after + 2
    return sizes, known.view("<u8"), pattern.view("<u8"), kept.view("<u8"), heads, steps


_SIZES, _KNOWN, _PATTERN, _KEPT, _HEAD, _STEP = _tables()
