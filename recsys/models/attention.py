"""Causal attention within the sequences of packed rows.

Two ways that give the same:

- ``masked``: a block-diagonal causal mask over whole rows. Anywhere, and at serving. On a CPU it is
  the fastest we measured (256 sequences of Amazon Beauty, forward and backward: 4 ms; in eight
  groups of similar length 5.4 ms; padded 30 ms), in float32, whose kernel takes a third of
  bfloat16's time there.
- ``varlen``: flash attention over the sequences without padding or mask, on CUDA in half precision:
  no matrix of the row's length squared exists, which is what long sequences need.

Axes: ``R`` rows, ``S`` places, ``A`` heads, ``T`` places that are not padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.packing import Places

_FLASH_CAPABILITY = (8, 0)
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Varlen:
    """Where sequences begin among the places that are not padding."""

    token: Tensor
    """``[T]`` which places of the flattened rows these are."""
    offsets: Tensor
    """``[B + 1]`` int32."""
    longest: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What each place may look at; made once, used by every layer."""

    mask: Tensor | None
    """``[R, 1, S, S]`` bool for ``masked``. Padding looks at padding, so no row is empty."""
    varlen: Varlen | None


def reach_of(places: Places, *, dtype: torch.dtype, head_size: int) -> Reach:
    """Choose the way, and give what it needs.

    ``dtype`` is that of queries and keys when attention is reached (half precision under autocast).
    """
    device = places.segment.device
    if (
        device.type == "cuda"
        and dtype in _HALF
        and head_size % 8 == 0
        and torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY
    ):
        return Reach(mask=None, varlen=varlen_of(places))
    return Reach(mask=mask_of(places), varlen=None)


def mask_of(places: Places) -> Tensor:
    """Give the block-diagonal causal mask ``[R, 1, S, S]``: True may be looked at."""
    segment = places.segment
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    return ((segment.unsqueeze(2) == segment.unsqueeze(1)) & causal).unsqueeze(1)


def varlen_of(places: Places) -> Varlen:
    """Give the sequences as offsets."""
    segment = places.segment.flatten()
    token = (segment >= 0).nonzero().flatten()
    # The newest place ends its sequence; two neighbours in different rows never share one.
    ends = (places.from_newest.flatten()[token] == 0).nonzero().flatten() + 1
    offsets = F.pad(ends, (1, 0)).to(torch.int32)
    lengths = offsets.diff()
    return Varlen(
        token=token, offsets=offsets, longest=int(lengths.max()) if len(lengths) else 0
    )  # fmt: skip


def attend(query: Tensor, key: Tensor, value: Tensor, reach: Reach) -> Tensor:
    """Give ``[R, S, A, d]`` from three of that shape; padding gives anything finite.

    Source: Vaswani et al. 2017, "Attention is all you need", eq. 1, causal.
    """
    if reach.varlen is not None:
        return _attend_varlen(query, key, value, reach.varlen)
    assert reach.mask is not None
    dtype = query.dtype
    with torch.autocast(query.device.type, enabled=False):
        if query.device.type == "cpu":
            query, key, value = query.float(), key.float(), value.float()
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=reach.mask
        )
    return out.transpose(1, 2).to(dtype)


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, varlen: Varlen) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    token, offsets, longest = varlen.token, varlen.offsets, varlen.longest
    q, k, v = (tensor.flatten(0, 1)[token] for tensor in (query, key, value))
    found = varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=(-1, 0))
    assert isinstance(found, Tensor)
    out = query.new_zeros(query.shape[0] * query.shape[1], *query.shape[2:])
    return out.index_copy(0, token, found).view(query.shape)
