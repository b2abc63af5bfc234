"""Values of a history as Feast has them, made from its state."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from recsys.features.framing import unframe
from recsys.features.recency import RecentEvents
from recsys.features.value_layout import Value, encode_int64_lists, encode_strings


def encoded_lists(payloads: Sequence[bytes | None]) -> dict[str, list[bytes]]:
    """Give the lists of ``Q`` histories as Feast's values, ``[Q]`` of each feature."""
    events = RecentEvents.of_blobs(payloads)
    recent = events.recent_items()
    ids = [item_id.decode() for item_id in events.ids]
    items = [ids[place] for place in recent.item.tolist()]
    ends = recent.offsets.tolist()
    return {
        "counts": encode_int64_lists(recent.count.astype(np.int64), recent.offsets),
        "item_ids": [encode_strings(items[begin:end]) for begin, end in pairwise(ends)],
        "last_ms": encode_int64_lists(recent.last_ms, recent.offsets),
    }


def values_of(state: bytes | None) -> dict[str, Value]:
    """Give one history by the names of its features, from its framed state."""
    events = RecentEvents.of_blobs(unframe([state]).payloads)
    recent = events.recent_items()
    return {
        "counts": recent.count.astype(np.int64).tolist(),
        "item_ids": [events.ids[place].decode() for place in recent.item.tolist()],
        "last_ms": recent.last_ms.tolist(),
    }
