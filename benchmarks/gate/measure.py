"""``python -m benchmarks.gate.measure``: one repeat, the ratio of every case, in a fresh process.

A process of its own for each repeat, since where memory lies and what the machine does meanwhile is
the same for all rounds of one process. Times are CPU times of one thread, ours and the reference in
turn; the ratio is that of their medians. Prints a line of JSON.

``--slow 1.5`` makes ours that much slower, to see that the gate notices: each call is followed by
half as much work again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.features.interleaved import time_in_turn
from benchmarks.gate.cases import cases


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate.measure")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", type=float, default=1.0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    ratios = {}
    for case in cases(options.seed):
        ours = case.ours if options.slow == 1.0 else slowed(case.ours, options.slow)
        taken = time_in_turn(
            {"ours": ours, "reference": case.reference}, rounds=options.rounds, seed=options.seed
        )
        median = {name: float(np.median(times["cpu"])) for name, times in taken.items()}
        ratios[case.name] = round(median["ours"] / median["reference"], 5)
    sys.stdout.write(json.dumps(ratios) + "\n")
    return 0


def slowed(run: Callable[[], object], factor: float) -> Callable[[], object]:
    """Give ``run`` with ``factor`` times its CPU time."""

    def slower() -> object:
        start = time.process_time()
        found = run()
        end = start + (time.process_time() - start) * factor
        while time.process_time() < end:
            pass
        return found

    return slower


if __name__ == "__main__":
    sys.exit(main())
