"""The frame around the state of one view of one entity: what made it, and how new it is.

A blob is ``u16 n | n x u64 (source << 48 | next offset) | i64 newest event time in ms | payload``,
little-endian. The positions make the state exact by itself (``positions.py``), whatever becomes of
the entity's other views; the newest time is what a TTL is measured from. What the payload means is
the view's business.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import FeatureError
from recsys.features.batch import Int64s

NEVER_MS = -(2**60)
"""Stands for the time of an event that never was."""
_COUNT, _POSITION, _TIME = 2, 8, 8
_NEVER = bytes(_COUNT) + NEVER_MS.to_bytes(_TIME, "little", signed=True)
_newest_of = struct.Struct("<q").unpack_from


@dataclass(frozen=True, slots=True)
class Framed:
    """The parts of ``N`` blobs; an absent one has no positions, ``NEVER_MS`` and no payload."""

    positions: list[bytes]
    newest_ms: Int64s
    payloads: list[bytes]

    def take(self, places: Int64s) -> Framed:
        """Give some of them."""
        at = places.tolist()
        return Framed(
            [self.positions[n] for n in at], self.newest_ms[places], [self.payloads[n] for n in at]
        )


def frame(framed: Framed) -> list[bytes]:
    """Put the parts together, one blob each."""
    times: list[bytes] = framed.newest_ms.astype("<i8").view(f"V{_TIME}").tolist()
    lengths = list(map(len, framed.positions))
    heads = {length: (length // _POSITION).to_bytes(_COUNT, "little") for length in set(lengths)}
    return [
        heads[length] + position + time + payload
        for length, position, time, payload in zip(
            lengths, framed.positions, times, framed.payloads, strict=True
        )
    ]


def unframe(blobs: Sequence[bytes | None]) -> Framed:
    """Take blobs apart; ``None`` stands for one that was never written.

    Raises:
        FeatureError: when one is cut off.
    """
    if blobs.count(None) == len(blobs):  # all met for the first time
        none = [b""] * len(blobs)
        return Framed(none, np.full(len(blobs), NEVER_MS), none)
    if (alike := _unframed_alike(blobs)) is not None:
        return alike
    whole = [_NEVER if blob is None else blob for blob in blobs]
    ends = [_COUNT + _POSITION * int.from_bytes(blob[:_COUNT], "little") for blob in whole]
    for blob, end in zip(whole, ends, strict=True):
        if len(blob) < end + _TIME:
            raise _cut_off(blob, end + _TIME)
    times = b"".join([blob[end : end + _TIME] for blob, end in zip(whole, ends, strict=True)])
    return Framed(
        [blob[_COUNT:end] for blob, end in zip(whole, ends, strict=True)],
        np.frombuffer(times, dtype="<i8").astype(np.int64),
        [blob[end + _TIME :] for blob, end in zip(whole, ends, strict=True)],
    )


def _unframed_alike(blobs: Sequence[bytes | None]) -> Framed | None:
    """Take blobs apart whose frames are of one size, as those of users are, in half the time.

    ``None`` where they are not, or one was never written.
    """
    head = (blobs[0] or b"")[:_COUNT]
    width = _POSITION * int.from_bytes(head, "little")
    begin = _COUNT + width + _TIME
    if not width:
        return None
    try:
        heads = b"".join([blob[:begin] for blob in blobs])  # type: ignore[index]
    except TypeError:
        return None
    num = len(blobs)
    if len(heads) != num * begin:  # one is cut off
        return None
    counts = np.ndarray((num,), "<u2", heads, 0, (begin,))
    if (counts != counts[0]).any():
        return None
    positions: list[bytes] = np.ndarray((num,), f"V{width}", heads, _COUNT, (begin,)).tolist()
    times = np.ndarray((num,), "<i8", heads, _COUNT + width, (begin,))
    return Framed(
        positions,
        times.astype(np.int64),
        [blob[begin:] for blob in blobs],  # type: ignore[index]
    )


def payloads_of(blobs: Sequence[bytes | None], *, since_ms: int = NEVER_MS) -> list[bytes]:
    """Give the payloads alone; nothing for one never written, or with no event since then.

    Raises as ``unframe``.
    """
    payloads = []
    for blob in blobs:
        if blob is None:
            payloads.append(b"")
            continue
        begin = _COUNT + _POSITION * int.from_bytes(blob[:_COUNT], "little") + _TIME
        if len(blob) < begin:
            raise _cut_off(blob, begin)
        (newest_ms,) = _newest_of(blob, begin - _TIME)
        payloads.append(blob[begin:] if newest_ms >= since_ms else b"")
    return payloads


def _cut_off(blob: bytes, wanted: int) -> FeatureError:
    return FeatureError(
        f"state of a view: wanted a frame of at least {wanted} bytes, found {len(blob)}; run "
        "`recsys backfill`"
    )
