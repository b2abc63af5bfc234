"""Calling a bundle's model for several callers at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.deadline import Deadline
from recsys.inference.collate import split_rows, stack_arrays
from recsys.inference.model import Array, Arrays
from recsys.models.signature import CREATED_KEYS
from recsys.telemetry import MODEL_CALL_USERS

_NO_KEYS = np.zeros((1, 1), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One caller's inputs, with a batch axis of 1."""

    inputs: dict[str, Array]
    deadline: Deadline


def together(
    name: str, run: Callable[[Arrays, Deadline], Awaitable[Arrays]]
) -> Callable[[Sequence[ModelCall]], Awaitable[Sequence[Arrays]]]:
    """Give what answers many calls of the model's function ``run`` by one."""
    num_users = MODEL_CALL_USERS.labels(name)

    async def run_together(calls: Sequence[ModelCall]) -> Sequence[Arrays]:
        inputs = [
            {**call.inputs, "budget_ms": _budget_ms(call.deadline)}
            if "exclude_index" in call.inputs
            else call.inputs
            for call in calls
        ]
        num_users.observe(len(calls))
        if any(CREATED_KEYS in one for one in inputs):  # the first was heard of in between
            inputs = [{CREATED_KEYS: _NO_KEYS, **one} for one in inputs]
        deadline = Deadline.latest(*(call.deadline for call in calls))
        return list(split_rows(await run(stack_arrays(inputs), deadline), inputs))

    return run_together


def _budget_ms(deadline: Deadline) -> Array:
    """Give the time left as the model server is told: relative, since clocks differ."""
    return np.array([[int(deadline.remaining_s() * 1e3)]], dtype=np.int32)
