"""An answer of ``get_online_features`` that is columns, and a protobuf message only when asked."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import (
    FieldStatus,
    GetOnlineFeaturesResponse,
)
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

from recsys.features.online_store.request import Found
from recsys.features.value_columns import Mask, RaggedColumn

STATUSES = {
    Mask.PRESENT: FieldStatus.PRESENT,
    Mask.NULL: FieldStatus.PRESENT,  # as Feast has it: a value, which is null
    Mask.EXPIRED: FieldStatus.OUTSIDE_MAX_AGE,
    Mask.MISSING: FieldStatus.NOT_FOUND,
}


class ColumnarResponse(OnlineResponse):
    """Feast's response; ``to_dict``, ``to_df``, ``to_arrow`` and ``to_tensor`` come from columns.

    Beyond Feast's it has ``columns``: what was read, as dense arrays with masks.
    """

    def __init__(self, found: Found, *, keep_expired: bool) -> None:
        self.columns = found
        self._feature_types = found.pending.compiled.types
        self._keep_expired = keep_expired
        self._proto: GetOnlineFeaturesResponse | None = None

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Give a list of Python values for each name, as Feast does."""
        answer: dict[str, Any] = {}
        for name, values in self.columns.pending.entities.items():
            answer[name] = list(values)
            if include_event_timestamps:
                answer[name + TIMESTAMP_POSTFIX] = [0] * len(values)
        floats = [self._python_floats(number) for number in range(len(self.columns.rows))]
        for shown, number, name in self.columns.pending.compiled.names:
            rows = self.columns.rows[number]
            index = self.columns.pending.parts[number][1]
            if name in floats[number]:
                answer[shown] = floats[number][name]
            else:
                column = rows.columns[name]
                values = _python_values(column.values)
                gone = column.mask != Mask.PRESENT
                if self._keep_expired:
                    gone &= column.mask != Mask.EXPIRED
                for place in np.flatnonzero(gone).tolist():
                    values[place] = None
                answer[shown] = _taken(values, index)
            if include_event_timestamps:
                times = rows.views[name.partition(":")[0]].event_time_us // 1_000_000
                answer[shown + TIMESTAMP_POSTFIX] = times[index].tolist()
        return answer

    def _python_floats(self, number: int) -> dict[str, list[float | None]]:
        rows = self.columns.rows[number]
        index = self.columns.pending.parts[number][1]
        values = rows.floats[index].T.tolist()
        gone = rows.float_mask != Mask.PRESENT
        if self._keep_expired:
            # Of an expired row what is null or missing is NaN, as no float that was written is.
            gone &= (rows.float_mask != Mask.EXPIRED) | np.isnan(rows.floats)
        if gone.any():
            for row, column in np.argwhere(gone[index]).tolist():
                values[column][row] = None
        return dict(zip(rows.float_names, values, strict=True))

    @property
    def proto(self) -> GetOnlineFeaturesResponse:
        """The message, made when first asked for."""
        if self._proto is None:
            self._proto = self._message()
        return self._proto

    @proto.setter
    def proto(self, value: GetOnlineFeaturesResponse) -> None:
        self._proto = value

    def _message(self) -> GetOnlineFeaturesResponse:
        message = GetOnlineFeaturesResponse(results=[])
        columns = self.to_dict()
        pending = self.columns.pending
        for name in pending.entities:
            values = columns[name]
            message.metadata.feature_names.val.append(name)
            message.results.add(
                values=_protos(values, pending.compiled.key_types.get(name, ValueType.UNKNOWN)),
                statuses=[FieldStatus.PRESENT] * len(values),
                event_timestamps=[Timestamp()] * len(values),
            )
        for shown, number, name in pending.compiled.names:
            rows, index = self.columns.rows[number], pending.parts[number][1]
            message.metadata.feature_names.val.append(shown)
            times = rows.views[name.partition(":")[0]].event_time_us[index].tolist()
            masks = rows.column(name).mask[index].tolist()
            message.results.add(
                values=_protos(columns[shown], self._feature_types[shown]),
                statuses=[STATUSES[Mask(mask)] for mask in masks],
                event_timestamps=[
                    Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000) for us in times
                ],
            )
        return message


def _protos(values: list[Any], kind: ValueType) -> list[ValueProto]:
    known = [value for value in values if value is not None]
    made = iter(python_values_to_proto_values(known, kind) if known else [])
    return [ValueProto() if value is None else next(made) for value in values]


def _python_values(values: Any) -> list[Any]:
    if isinstance(values, RaggedColumn):
        flat = values.values.tolist()
        return [flat[begin:end] for begin, end in pairwise(values.offsets.tolist())]
    return values.tolist()  # type: ignore[no-any-return]


def _taken(values: list[Any], index: Any) -> list[Any]:
    if len(index) == len(values):  # every row once, in order
        return values
    return [values[place] for place in index.tolist()]
