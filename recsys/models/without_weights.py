"""Models whose weights come from a file: none are drawn, and no memory is taken, to make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_weights() -> Iterator[None]:
    """Within, modules are made on the device ``meta``, and what would draw weights does nothing.

    The device alone does not do: to draw from a normal distribution there, torch imports its
    compiler, 1.8 of the 4.5 s of CPU that loading a bundle took.
    """
    with torch.device("meta"), _NotDrawn():
        yield


class _NotDrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return kwargs["tensor"]  # as they all call it
        return func(*args, **kwargs)
