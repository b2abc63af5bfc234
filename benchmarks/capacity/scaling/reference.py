"""A fixed piece of work, timed beside every point: how fast the machine was at that moment.

A shared machine changes its clock from hour to hour. Half of this is the interpreter, half
arithmetic, as a request is. It is kept to tell a disturbed hour from a quiet one; times are not
divided by it, since a single one of it is as noisy as what it would correct.
"""

from __future__ import annotations

import json
import time
from statistics import median

import torch

_ROUNDS = 5


def reference_ms() -> float:
    """Give milliseconds of CPU, the median of a few rounds, by one thread."""
    torch.set_num_threads(1)  # threads that wait for one another count as work
    taken = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        _interpreted()
        _multiplied()
        taken.append(time.process_time() - start)
    return round(median(taken) * 1e3, 4)


_DOCUMENT = json.dumps([{"user": n, "items": list(range(20))} for n in range(40)])
_LEFT, _RIGHT = torch.ones(96, 256), torch.ones(256, 256)


def _interpreted() -> int:
    total = 0
    for _ in range(6):
        for row in json.loads(_DOCUMENT):
            for item in row["items"]:
                total += item * row["user"]
    return total


def _multiplied() -> None:
    for _ in range(8):
        torch.relu(_LEFT @ _RIGHT)
