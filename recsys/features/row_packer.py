"""Rows of a view, given as columns, as calls of the script that writes what is newer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any, Literal

import numpy.typing as npt

from recsys.errors import InputError
from recsys.features.batch import Int64s
from recsys.features.entity_keys import EntityKeyColumns
from recsys.features.newer_wins import MAX_FEATURES, newer_wins
from recsys.features.redis.commands import bulk_heads, slot_of
from recsys.features.value_encoding import frame_column, frame_times, join_columns
from recsys.features.view import View

Ties = Literal["replace", "keep"]
_ROWS_PER_CALL = 100
"""Rows of one script call: enough that its cost is shared, few enough that reads get in between."""
_ROWS_PER_TRIP = 5_000


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """Some rows as one call of the script."""

    keys: bytes
    body: bytes
    num_arguments: int
    num_features: int
    first_key: bytes
    rows: list[int]

    def packed(self, *, by_sha: bool) -> bytes:
        """Give the command, with the script's text or its SHA1."""
        count = len(self.rows)
        script, sha = newer_wins(self.num_features)
        command = [b"EVALSHA", sha] if by_sha else [b"EVAL", script]
        head = _arguments([*command, b"%d" % count])
        return b"".join((b"*%d\r\n" % (3 + count + self.num_arguments), head, self.keys, self.body))


def _arguments(values: Sequence[bytes]) -> bytes:
    """Give arguments of a command one after another."""
    parts = [b"\r\n"] * (3 * len(values))
    parts[::3] = bulk_heads(values)
    parts[1::3] = values
    return b"".join(parts)


class RowPacker:
    """Packs rows of one view as script calls. Knows no connection."""

    def __init__(
        self, view: View, project: str, *, key_ttl_s: int = 0, ties: Ties = "replace"
    ) -> None:
        if len(view.features) > MAX_FEATURES:
            raise InputError(
                f'view "{view.name}": wanted at most {MAX_FEATURES} features for one row, found '
                f"{len(view.features)}; put them into a vector or several views"
            )
        self.view = view
        self._keys = EntityKeyColumns.of_view(view, project)
        self._ttl, self._ties = b"%d" % key_ttl_s, ties.encode()

    def columns(
        self,
        entities: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
        columns: Mapping[str, Any],
        event_time_us: Int64s,
    ) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """Give keys, rows of framed values and the fields they have in this order.

        Raises:
            InputError: a column is absent, unknown, of another length or another type.
        """
        features = {feature.name: feature for feature in self.view.features}
        if columns.keys() != features.keys():
            raise InputError(
                f'view "{self.view.name}": wanted the columns {", ".join(features)}; '
                f"found {', '.join(columns)}"
            )
        keys = self._keys.build(entities)
        lengths = {name: len(column) for name, column in columns.items()}
        lengths["event time"] = len(event_time_us)
        if any(length != len(keys) for length in lengths.values()):
            raise InputError(f"wanted {len(keys)} rows, as there are entities; found {lengths}")
        framed = [frame_column(features[name], column) for name, column in columns.items()]
        order, rows = join_columns(framed, len(keys))
        names = list(columns)
        return keys, rows, [features[names[i]].field_bytes for i in order]

    def calls(
        self,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        fields: Sequence[bytes],
        event_time_us: Int64s,
        *,
        by_slot: bool,
        first_rows: int = _ROWS_PER_TRIP,
    ) -> Iterator[list[ScriptCall]]:
        """Pack rows as script calls, a round trip's worth at a time.

        First ``first_rows``, then twice as many, and so on. In a cluster (``by_slot``) the keys of
        one call have one slot.
        """
        names = [self.view.timestamp_field, self._ties, self._ttl, b"%d" % len(fields), *fields]
        fixed = _arguments(names)
        begin, size = 0, _ROWS_PER_TRIP if by_slot else first_rows
        while begin < len(keys):
            trip = range(begin, min(begin + size, len(keys)))
            times = frame_times(event_time_us[begin : trip.stop])
            timed = dict(zip(trip, map(add, times, rows[begin : trip.stop]), strict=True))
            begin, size = trip.stop, min(2 * size, _ROWS_PER_TRIP)
            groups: list[list[int]] = [list(trip)]
            if by_slot:
                slots: dict[int, list[int]] = {}
                for row in trip:
                    slots.setdefault(slot_of(keys[row]), []).append(row)
                groups = list(slots.values())
            calls = []
            for group in groups:
                for first in range(0, len(group), _ROWS_PER_CALL):
                    part = group[first : first + _ROWS_PER_CALL]
                    calls.append(
                        ScriptCall(
                            keys=_arguments([keys[r] for r in part]),
                            body=fixed + _arguments([timed[r] for r in part]),
                            num_arguments=len(names) + len(part),
                            num_features=len(fields),
                            first_key=keys[part[0]],
                            rows=part,
                        )
                    )
            yield calls
