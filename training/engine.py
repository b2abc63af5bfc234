"""How a run computes: precision, optimiser, accumulation, checkpoints. What it learns is elsewhere.

None of the defaults changes what is learned; each field says what it costs or saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a run computes."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: matrix products in bf16 (autocast), weights and moments in float32. Pays where
    the device has such units: CUDA, and x86 with AMX."""
    compile: bool = False
    """``torch.compile`` of the modules' ``forward``; costs most of a minute at the start."""
    accumulate_batches: int = 1
    """Batches whose gradients are added up before a step."""
    clip_norm: float = 0.0
    """Longest gradient, all parameters together; 0 leaves them as they are."""
    sparse_tables: bool = False
    """Tables that are only looked up get sparse gradients and an optimiser of their own (no weight
    decay): a step then costs what it touches, not what there is. For tables of millions of rows."""
    table_optimiser: Literal["adam", "row_wise_adagrad"] = "adam"
    """Of sparse tables. ``row_wise_adagrad`` (``row_wise_adagrad.py``) keeps one number a row in
    place of two for each entry, and takes a third to a half of the time."""
    table_learning_rate: float = 0.0
    """Peak for sparse tables; 0: that of the rest. Adagrad's steps shrink, so it wants more."""
    shard_tables_mb: float = 0.0
    """With several workers: tables larger than this are spread over them by rows. 0: none is."""
    patience: int = 0
    """Epochs without a better loss on the validation slice before a phase ends, with the weights of
    its best epoch; 0 runs them all."""
    validation_share: float = 0.1
    """The latest share of the early visits, left out of learning where ``patience`` is not 0."""
    checkpoint_every_s: float = 300.0
    """A longer epoch leaves checkpoints in between."""
