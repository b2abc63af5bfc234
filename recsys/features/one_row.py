"""One entity whose views are all there and within their TTLs: what a request reads of a user.

The same bytes and the same meaning as ``row_groups.py`` has for many. Of one row the arrays that
find gaps and old views take longer than its values do, and three times that where the caches hold
something else, as they do when a read comes after other work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.features.feature_rows import Column, FeatureRows, ViewTimes
from recsys.features.row_groups import Group
from recsys.features.time_layout import decode_timestamp_us
from recsys.features.value_columns import (
    Mask,
    Masks,
    decode_column,
    decode_float_rows,
    decode_vectors,
)

_PRESENT: Masks = np.full(1, Mask.PRESENT, dtype=np.uint8)


def decode_one(group: Group, row: Sequence[bytes | None], now_us: int) -> FeatureRows | None:
    """Give what the bytes of one hash mean at ``now_us``; ``None``: ``decode_group`` is to say.

    It is where a view is missing, expired or made from state.

    Raises:
        FeatureError: when a value is of another type than declared.
    """
    if group.streamed:
        return None
    num_floats = len(group.float_names)
    at = num_floats + len(group.others)
    views: dict[str, ViewTimes] = {}
    for view in group.views:
        stamp = row[at]
        if stamp is None:
            return None
        time_us = decode_timestamp_us(stamp)
        if view.ttl_ms:
            # Events have whole milliseconds: until the next one all is as it was at the last.
            now = now_us // 1000 * 1000 if view.is_streamed else now_us
            if time_us < now - view.ttl_ms * 1000:
                return None
        views[view.name] = ViewTimes(_PRESENT.copy(), np.array((time_us,), dtype=np.int64))
        at += 1
    columns: dict[str, Column] = {}
    for place, (name, _, feature) in enumerate(group.others, num_floats):
        value = (row[place],)
        columns[name] = (
            Column(*decode_vectors(value, len(feature.columns)))
            if feature.columns and feature.type == "float32_list"
            else Column(*decode_column(value, feature.type))
        )
    floats, float_mask = decode_float_rows((row,), num_floats)
    return FeatureRows(
        num_rows=1,
        float_names=group.float_names,
        floats=floats,
        float_mask=float_mask,
        columns=columns,
        views=views,
    )
