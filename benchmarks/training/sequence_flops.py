"""Operations of a training step of a sequence model that are of use: none for padding.

Axes: ``B`` sequences, ``D`` embedding, ``T`` predictions, ``N`` items.
"""

from __future__ import annotations

from collections.abc import Sequence

_FORWARD_AND_BACKWARD = 3
"""A product's two gradients are each a product of the same size."""


def step_flops(
    lengths: Sequence[int],
    *,
    num_targets: int,
    num_items: int,
    embedding_size: int,
    num_layers: int,
    widening: int,
    is_causal: bool = True,
) -> int:
    """Count matrix products and attention, forward and backward, a multiplication and an addition
    each for one.

    Args:
        lengths: ``[B]`` places of each sequence.
        num_targets: T.
        num_items: N, all of which are in each prediction's softmax.
        embedding_size: D.
        num_layers: Blocks of attention and network.
        widening: Width of a block's network, in D.
        is_causal: Whether a place looks at no later one; False counts the whole square, as torch's
            counter does.

    Recomputation (of attention's weights, of checkpointed layers) is not counted: it is of use to
    memory only. Source: Kaplan et al. 2020, "Scaling laws for neural language models", table 1;
    Chowdhery et al. 2022, "PaLM", appendix B (model FLOPs utilisation).
    """
    size = embedding_size
    linear = sum(lengths) * 2 * size * size * (4 + 2 * widening)
    pairs = sum(n * (n + 1) // 2 if is_causal else n * n for n in lengths)
    attention = pairs * 2 * 2 * size
    softmax = 2 * num_targets * num_items * size
    return _FORWARD_AND_BACKWARD * (num_layers * (linear + attention) + softmax)
