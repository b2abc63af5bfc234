"""Values of a history as Feast has them, made from its state.

The state knows items by their hashes and is small; ``item_ids`` lie beside it, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.features.framing import unframe
from recsys.features.layout import Value, decode_value, encode_int64_lists
from recsys.features.recency import RecentEvents, RecentItems


def recent_of(payloads: Sequence[bytes | None]) -> RecentItems:
    """Give the histories of ``Q`` states."""
    return RecentEvents.of_blobs(payloads).recent_items()


def encoded_lists(recent: RecentItems) -> dict[str, list[bytes]]:
    """Give the lists beside ``item_ids`` as Feast's values, ``[Q]`` of each feature."""
    return {
        "counts": encode_int64_lists(recent.count.astype(np.int64), recent.offsets),
        "last_ms": encode_int64_lists(recent.last_ms, recent.offsets),
    }


def values_of(state: bytes | None, item_ids: bytes | None) -> dict[str, Value]:
    """Give one history by the names of its features, from its framed state and stored items."""
    recent = recent_of(unframe([state]).payloads)
    return {
        "counts": recent.count.astype(np.int64).tolist(),
        "item_ids": decode_value(item_ids, "string_list"),
        "last_ms": recent.last_ms.tolist(),
    }
