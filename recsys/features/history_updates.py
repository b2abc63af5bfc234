"""Adds interactions to the stored histories of many users, mostly without looking at them.

An interaction later than all that are stored is appended to the tail of its user's state
(``history_codec.py``), which costs the same however long the history is. What decides where the
body ends is in the interactions themselves: about one in 32 is a *cut*, by a hash of its item and
time. The body is the latest ``HISTORY_EVENTS`` interactions up to the newest cut, in the order of
histories; the tail is all that come after. So the state is a function of the interactions it was
told, in whatever order and batches: what comes late, or is a cut, has the user's state laid out
anew.

Axes: ``N`` interactions of ``Q`` users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.features import history_codec
from recsys.features.batch import Bools, Int64s
from recsys.features.history_codec import Interactions
from recsys.features.names import HISTORY_EVENTS, identity_hash
from recsys.features.recency import newest_of

_MIXER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: spreads times that differ little over all bits (Knuth 6.4)."""
_CUT_SHIFT = np.uint64(59)
"""One in 2^5 is a cut."""


def added(
    blobs: Sequence[bytes], newest_ms: Int64s, rows: Interactions
) -> list[bytes]:  # fmt: skip
    """Give the blobs of ``Q`` users with ``rows`` added; their order plays no part.

    Args:
        blobs: ``[Q]``.
        newest_ms: ``[Q]``: time of the newest interaction in each; anything for an empty one.
        rows: To add; an owner is a place in ``blobs``.
    """
    hashes = _hashes(rows.ids)
    order = np.lexsort((hashes[rows.item], rows.time_ms, rows.owner))
    owner, item, time_ms = rows.owner[order], rows.item[order], rows.time_ms[order]
    is_first = np.ones(len(owner), dtype=np.bool_)
    is_first[1:] = owner[1:] != owner[:-1]
    has_some = np.array([bool(blob) for blob in blobs], dtype=np.bool_)
    is_slow = np.zeros(len(blobs), dtype=np.bool_)
    is_slow[owner[_is_cut(hashes[item], time_ms)]] = True
    is_slow[owner[is_first & has_some[owner] & (time_ms <= newest_ms[owner])]] = True

    after = list(blobs)
    fast = ~is_slow[owner]
    _append(after, newest_ms, Interactions(owner[fast], item[fast], time_ms[fast], rows.ids))
    slow = np.flatnonzero(is_slow)
    if len(slow):
        place = np.cumsum(is_slow) - 1
        some = Interactions(place[owner[~fast]], item[~fast], time_ms[~fast], rows.ids)
        laid_out = _laid_out([blobs[n] for n in slow.tolist()], some)
        for n, blob in zip(slow.tolist(), laid_out, strict=True):
            after[n] = blob
    return after


def _append(blobs: list[bytes], newest_ms: Int64s, rows: Interactions) -> None:
    if not len(rows.owner):
        return
    starts = np.flatnonzero(np.append(True, rows.owner[1:] != rows.owner[:-1]))
    steps = np.diff(rows.time_ms, prepend=0)
    owners = rows.owner[starts].tolist()
    bases = [
        newest if blobs[who] else first
        for who, newest, first in zip(
            owners, newest_ms[owners].tolist(), rows.time_ms[starts].tolist(), strict=True
        )
    ]
    steps[starts] = rows.time_ms[starts] - np.array(bases, dtype=np.int64)
    ids = [history_codec.tail_id(item_id) for item_id in rows.ids]
    records = history_codec.tail_records(steps, rows.item, ids)
    ends = [*starts[1:].tolist(), len(records)]
    for who, base, begin, end in zip(owners, bases, starts.tolist(), ends, strict=True):
        stored = blobs[who] or history_codec.begin(base)
        blobs[who] = stored + b"".join(records[begin:end])


def _laid_out(blobs: Sequence[bytes], more: Interactions) -> list[bytes]:
    stored = history_codec.decode(blobs)
    place_of = {item_id: place for place, item_id in enumerate(stored.ids)}
    places = [place_of.setdefault(item_id, len(place_of)) for item_id in more.ids]
    ids = list(place_of)
    owner = np.concatenate([stored.owner, more.owner])
    item = np.concatenate([stored.item, np.array(places, dtype=np.int64)[more.item]])
    time_ms = np.concatenate([stored.time_ms, more.time_ms])
    hashes = _hashes(ids)
    order = np.lexsort((hashes[item], time_ms, owner))
    owner, item, time_ms = owner[order], item[order], time_ms[order]
    cut = np.full(len(blobs), -1, dtype=np.int64)
    cuts = np.flatnonzero(_is_cut(hashes[item], time_ms))
    np.maximum.at(cut, owner[cuts], cuts)
    in_tail = np.arange(len(owner)) > cut[owner]
    keep = in_tail.copy()
    body = np.flatnonzero(~in_tail)
    keep[body] = newest_of(owner[body], len(blobs), HISTORY_EVENTS)
    rows = Interactions(owner[keep], item[keep], time_ms[keep], ids)
    return history_codec.encode(rows, in_tail[keep], len(blobs))


def _hashes(ids: Sequence[bytes]) -> Int64s:
    return np.fromiter((identity_hash(i) for i in ids), dtype=np.int64, count=len(ids))


def _is_cut(hashes: Int64s, time_ms: Int64s) -> Bools:
    mixed = hashes.view(np.uint64) ^ (time_ms.astype(np.int64).view(np.uint64) * _MIXER)
    cut: Bools = mixed >> _CUT_SHIFT == 0
    return cut
