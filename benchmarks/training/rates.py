"""From turns to what is reported: rates, ratios with intervals, shares of the device's peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.features.interleaved import ratio
from benchmarks.training.turns import Trainer, Turns

_BOOTSTRAPS = 2_000
CLOCKS = ("wall", "cpu")
"""``cpu``: seconds of all threads of a process. On a machine that others use only this one is fair,
and only with one thread each; on a CUDA device only ``wall`` means anything."""


def rates(turns: Mapping[str, Turns], *, seed: int) -> dict[str, dict[str, Any]]:
    """Give examples per second of each trainer by both clocks: median over turns and 95 % interval
    of that median (bootstrap over turns)."""
    found: dict[str, dict[str, Any]] = {}
    for name, did in turns.items():
        found[name] = {"loss_of_last_turn": round(did.loss[-1], 4)}
        for clock in CLOCKS:
            seconds = did.seconds_per_example(clock)
            rng = np.random.default_rng(seed)
            drawn = np.median(
                seconds[rng.integers(0, len(seconds), (_BOOTSTRAPS, len(seconds)))], 1
            )
            slow, fast = np.quantile(drawn, [0.975, 0.025])
            found[name][f"examples_per_{clock}_s"] = {
                "median": round(1 / float(np.median(seconds)), 1),
                "low": round(1 / float(slow), 1),
                "high": round(1 / float(fast), 1),
            }
    return found


def ratios(
    turns: Mapping[str, Turns], pairs: Mapping[str, str], *, seed: int
) -> dict[str, dict[str, Any]]:
    """Give how many times as many examples per second ``pairs``' key trains as its value."""
    return {
        f"{ours} / {theirs}": {
            clock: ratio(
                turns[theirs].seconds_per_example(clock),
                turns[ours].seconds_per_example(clock),
                seed=seed,
            )
            for clock in CLOCKS
        }
        for ours, theirs in pairs.items()
        if ours in turns and theirs in turns
    }


def work(
    turns: Mapping[str, Turns], trainers: Mapping[str, Trainer], machine: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Give operations per second by the wall clock, their share of the peak of the trainer's
    precision, and peak memory.

    Operations are matrix products and attention, forward and backward, as counted by torch's own
    counter on one step (``flops_per_step``), or only those not spent on padding where a trainer
    says them (``useful_flops_per_step``); where it says ``bytes_per_step``, what the
    step's tables must move at the least is set against the memory's rate too.
    """
    found = {}
    for name, did in turns.items():
        per_s = 1 / float(np.median(did.seconds_per_example("wall")))
        examples = did.ready.get("mean_examples_per_step", did.ready["examples_per_step"])
        steps_per_s = per_s / examples
        flops = did.ready.get("useful_flops_per_step", did.ready["flops_per_step"])
        tflops = flops * steps_per_s / 1e12
        peak = machine["peak_tflops"][trainers[name].settings["dtype"]]
        found[name] = {
            "mflop_per_example": round(flops / examples / 1e6, 3),
            "tflop_per_s": round(tflops, 4),
            "share_of_peak": round(tflops / peak, 4),
            "peak_mb": round(did.peak_bytes / 1e6),
        }
        if "bytes_per_step" in did.ready:
            gb_s = did.ready["bytes_per_step"] * steps_per_s / 1e9
            found[name]["table_gb_per_s"] = round(gb_s, 2)
            found[name]["share_of_memory_rate"] = round(gb_s / machine["memory_gb_s"], 4)
    return found
