"""The largest of a long row: exact, and little more work than reading it once.

torch's ``topk`` of a million floats takes longer than the product that made them, and of ten
thousand four times as long as NumPy's partition, which compares with vector instructions. A long
row is cut into groups, whose maxima are found in one pass; the ``k`` largest elements lie in the
``k`` groups with the largest maxima, because each other group's elements are below ``k`` maxima.
Only those groups are looked at again.

Axes: ``B`` rows, ``N`` elements, ``k`` wanted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.features.batch import Float32s, Int64s

_GROUP = 64
"""Elements of a group: a maximum of so many is one pass of vector instructions."""
_WORTH_IT = 4
"""Groups there must be for each wanted element: with fewer, most of the row is looked at again."""
_BLOCK = 1 << 17
"""Keys at once, of 8 bytes: what stays in a second-level cache."""
_SHORT = 512
"""Elements that are sorted whole."""
_SIGN = np.int32(-(1 << 31))


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Give the ``k`` largest of ``[B, N]``, largest first: values and places, ``[B, min(k, N)]``.

    Of equal elements in float32 on the CPU those at lower places come first, on every processor;
    elsewhere it is not said which come, and is the same for the same input.
    """
    size, length = scores.shape
    k = min(k, length)
    groups = length // _GROUP
    if groups < _WORTH_IT * max(k, 1):
        return _largest(scores, k)
    whole = groups * _GROUP
    grouped = scores[:, :whole].reshape(size, groups, _GROUP)
    # In the order of places, so that equal elements are still in it.
    chosen = _largest(grouped.amax(dim=2), k)[1].sort(dim=1).values
    inner = grouped.gather(1, chosen.unsqueeze(2).expand(-1, -1, _GROUP)).flatten(1)
    value, where = _largest(torch.cat([inner, scores[:, whole:]], dim=1), k)
    group = chosen.gather(1, (where // _GROUP).clamp(max=k - 1))
    place = torch.where(
        where < k * _GROUP, group * _GROUP + where % _GROUP, where - k * _GROUP + whole
    )
    return value, place


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if scores.device.type != "cpu" or scores.dtype != torch.float32 or not (k and len(scores)):
        value, place = scores.topk(k, dim=1)
        return value, place
    size, length = scores.shape
    array, rows = scores.numpy(), max(1, _BLOCK // length)
    blocks = [largest(array[begin : begin + rows], k) for begin in range(0, size, rows)]
    place = torch.from_numpy(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
    return scores.gather(1, place), place


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Give the places ``[B, k]`` of the largest of ``[B, N]`` float32, largest first."""
    keys = _keys(scores)
    keys.partition(k - 1, axis=1)
    top = keys[:, :k]
    top.sort(axis=1)
    return top & 0xFFFFFFFF


def largest_of_one(scores: Float32s, k: int) -> Int64s:
    """Give the places ``[k]`` of the largest of ``[N >= k]``, largest first, then by place.

    A short row is sorted in two calls, in half the time of the eleven that a long one is worth.
    """
    if len(scores) <= _SHORT:
        place: Int64s = (-scores).argsort(kind="stable")[:k]
        return place
    row: Int64s = largest(scores[np.newaxis], k)[0]
    return row


def _keys(scores: np.ndarray) -> np.ndarray:
    """Give integers, smaller for larger ones of ``[B, N]`` float32, and for equal ones by place.

    The bits of a float are in its own order where it is negative and in the reverse where not.
    """
    bits = scores.view(np.int32)
    keys: np.ndarray = (bits ^ ((~bits >> 31) | _SIGN)).astype(np.int64)
    keys <<= 32
    keys |= np.arange(scores.shape[1])
    return keys
