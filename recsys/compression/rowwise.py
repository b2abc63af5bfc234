"""Rows of floats as rows of signed bytes with one scale each.

A row ``x`` becomes ``q = round(x / s)`` with ``s = max|x| / 127``: symmetric, so that 0 stays 0 and
a product of two such rows is a product of integers times two scales. A decoded element is off by
``s / 2`` at most.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", eq. 1 with zero-point 0; one scale a row as in Guan et al. 2019,
"Post-Training 4-bit Quantization on Embedding Tables", section 3 (who use 4 bits and an offset).

Axes: ``R`` rows, ``D`` elements of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127
"""-128 is not used: the range stays symmetric."""


def encode_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Give ``[..., R, D]`` int8 rows and their ``[..., R]`` float32 scales.

    A row of zeros has scale 0. Encoding what ``decode_rows`` gave changes nothing further.

    Raises:
        ValueError: when a value is not finite: no scale would say what it was.
    """
    values = values.float()
    largest = values.abs().amax(dim=-1) if values.shape[-1] else values.new_zeros(values.shape[:-1])
    if not bool(torch.isfinite(largest).all()):
        raise ValueError("wanted finite values to encode in int8, found NaN or infinity")
    scale = largest / LARGEST
    # Of a row so small that its scale is 0 in float32 nothing can be kept.
    inverse = torch.where(scale > 0, 1.0 / scale, 0.0).nan_to_num(posinf=0.0)
    rows = (values * inverse.unsqueeze(-1)).round().clamp(-LARGEST, LARGEST)
    return rows.to(torch.int8), torch.where(inverse > 0, scale, 0.0)


def decode_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """Give the ``[..., R, D]`` float32 values of ``encode_rows``'s rows."""
    return rows.float() * scale.unsqueeze(-1)


def product(left: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
    """Give ``[B, R]`` inner products of float ``left`` ``[B, D]`` with encoded rows ``[R, D]``.

    On the CPU ``left`` is encoded as well and the sums are those of integers, exact in 32 bits for
    ``D`` up to 133,000; on CUDA the bytes (exact in bfloat16) meet ``left`` in bfloat16, because
    torch's integer product wants blocks of 16 users there.
    """
    if left.device.type == "cpu":
        own, own_scale = encode_rows(left)
        # torch 2.13's integer product of rows with one element reads beside them (its strides are
        # ambiguous there), and it takes no empty matrix.
        tiny = left.shape[1] < 2 or left.numel() == 0 or rows.numel() == 0
        sums = own.int() @ rows.T.int() if tiny else torch._int_mm(own, rows.T)
        return sums.float() * own_scale.unsqueeze(1) * scale
    return (left.bfloat16() @ rows.bfloat16().T).float() * scale
