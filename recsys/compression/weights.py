"""A file of weights with its large matrices in one byte an element.

Every float matrix (two axes or more) of at least ``MIN_WEIGHTS`` elements is stored as int8 rows
under its own name with its scales beside it (``NAME.row_scale``); the rest as it is. Reading gives
float32 again, so any module loads it; a layer that computes in int8 (``int8_linear.py``) encodes
the same bytes from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from recsys.compression.int8_linear import MIN_WEIGHTS
from recsys.compression.rowwise import decode_rows, encode_rows

_SCALE = ".row_scale"


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors to store."""
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        if value.is_floating_point() and value.dim() >= 2 and value.numel() >= MIN_WEIGHTS:
            out[name], out[name + _SCALE] = encode_rows(value)
        else:
            out[name] = value
    return out


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give what ``pack`` was given, rounded."""
    return {
        name: decode_rows(value, stored[name + _SCALE]) if name + _SCALE in stored else value
        for name, value in stored.items()
        if not name.endswith(_SCALE)
    }
