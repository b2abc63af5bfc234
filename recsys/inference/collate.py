"""Several calls as one, and one answer as several: padding of axes that vary by call.

Works on NumPy arrays (the API, which puts users together) and on tensors (the model server, which
puts calls of several APIs together). Padding is 0, which every signature reads as "nothing here".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from recsys.inference.model import Array, Arrays

Rows = TypeVar("Rows", bound=Any)


def stack_arrays(calls: Sequence[Arrays]) -> dict[str, Array]:
    """Put calls with the same names together on the batch axis.

    An axis of unequal length is padded with 0 at its end to the longest.
    """
    if len(calls) == 1:
        return dict(calls[0])
    stacked: dict[str, Array] = {}
    for name in calls[0]:
        arrays = [call[name] for call in calls]
        shape = tuple(np.max([array.shape[1:] for array in arrays], axis=0).tolist())
        if all(array.shape[1:] == shape for array in arrays):
            stacked[name] = np.concatenate(arrays)
            continue
        target = np.zeros((sum(map(len, arrays)), *shape), dtype=arrays[0].dtype)
        begin = 0
        for array in arrays:
            window = (slice(begin, begin + len(array)), *(slice(n) for n in array.shape[1:]))
            target[window] = array
            begin += len(array)
        stacked[name] = target
    return stacked


def split_rows(
    outputs: Mapping[str, Rows], calls: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Rows]]:
    """Give each call its rows of the common answer, in order, as views."""
    if len(calls) == 1:
        yield dict(outputs)
        return
    begin = 0
    for call in calls:
        end = begin + len(next(iter(call.values())))
        yield {name: values[begin:end] for name, values in outputs.items()}
        begin = end
