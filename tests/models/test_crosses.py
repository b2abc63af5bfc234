"""The cross step is what its expression says, with its gradients."""

from __future__ import annotations

import torch
from torch.autograd import gradcheck

from recsys.models.crosses import cross


def test_a_cross_is_its_expression_to_the_bit_of_its_gradients() -> None:
    parts = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    crossed, start, inner = parts
    torch.testing.assert_close(cross(*parts), crossed + start * inner)
    assert gradcheck(cross, tuple(parts))
    wanted = (crossed + start * inner).detach()
    with torch.no_grad():
        torch.testing.assert_close(
            cross(crossed, start, inner.bfloat16()), wanted, atol=0.1, rtol=0
        )
        torch.testing.assert_close(cross(crossed, start, inner.clone()), wanted)
