"""``recsys capacity simulate``: what a cluster would do at a rate, and while a node is away.

Example: eight API processes and four model servers at 2,000 requests a second, one model server
away from the thirtieth second to the fortieth::

    recsys capacity simulate --api 8 --model-servers 4 --rate 2000 --fail-node 30:10
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from benchmarks.capacity.simulation.balancing import Policy
from benchmarks.capacity.simulation.page import page
from benchmarks.capacity.simulation.profile import Profile, read_profile
from benchmarks.capacity.simulation.report import (
    Simulated,
    SimulatedRate,
    encode,
    simulate_rate,
)
from benchmarks.capacity.simulation.shape import Failure, RandomFailures, Shape, parse_failure
from benchmarks.loadtest.search import find_greatest, greatest
from benchmarks.loadtest.trace import Trace, read_trace
from recsys.answers.budgets import PipelineConfig
from recsys.errors import InputError

DEFAULT_PROFILE = "two-cores"
_INTERRUPTED = 130


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``run`` reads."""
    shape = Shape()
    add = parser.add_argument
    add("--profile", default=DEFAULT_PROFILE, help="file, or name of a kept one (%(default)s)")
    add("--rate", default="100", help="requests a second; several: 100,200,300")
    add("--trace", type=Path, help="recorded arrivals, as of recsys loadtest, instead of a rate")
    add("--duration", type=float, default=60.0, help="seconds, the warm-up among them")
    add("--warmup", type=float, default=5.0, help="seconds at the beginning that do not count")
    add("--p99", type=float, help="milliseconds: look for the greatest rate that keeps it")
    add("--one-machine", action="store_true", help="all on one machine, the load generator too")
    add("--api", type=int, default=shape.api, help="API processes")
    add("--api-per-machine", type=int, default=shape.api_per_machine)
    add("--model-servers", type=int, default=shape.model_servers, help="each on its own machine")
    add("--instances", type=int, default=shape.instances, help="of the model in each of them")
    add("--stores", type=int, default=shape.stores, help="Redis servers that hold the same")
    add("--cores", type=int, help="of each machine (as the profile's)")
    add("--network-ms", type=float, help="one way between machines (as between processes)")
    policies = get_args(Policy)
    add("--balance", choices=policies, default=shape.policy, help="before the API")
    add(
        "--balance-models",
        choices=policies,
        default=shape.model_policy,
        help="before model servers and stores (%(default)s: each process keeps its connection)",
    )
    add(
        "--fail-node",
        action="append",
        default=[],
        metavar="AT:LASTS[:NODE][:silent]",
        help="a node (api-1, model-1, redis-1 …) that dies and is back after LASTS seconds",
    )
    add("--mtbf", type=float, help="seconds: every node dies at random, so long after its return")
    add("--mttr", type=float, default=30.0, help="seconds until one that died at random is back")
    add("--detect", type=float, default=shape.detect_s, help="seconds until a balancer sees it")
    add("--retries", type=int, default=shape.retries, help="after a lost connection")
    add("--target-ms", type=float, default=shape.target_ms, help="of admission; 0: none")
    add("--deadline-ms", type=int, default=shape.budgets.deadline_ms, help="of a request")
    add("--seed", type=int, default=0)
    add("--output", type=Path, help="JSON file to write")
    add("--html", type=Path, help="page to write")


def run(options: argparse.Namespace) -> int:
    """Simulate and print the JSON; 130 when interrupted, with what was simulated until then."""
    profile, shape = read_profile(options.profile), shape_of(options)
    failures = [parse_failure(text) for text in options.fail_node]
    random = RandomFailures(mtbf_s=options.mtbf, mttr_s=options.mttr) if options.mtbf else None
    found = _all_rates(profile, shape, options, failures, random)
    text = encode(found)
    if options.output is not None:
        options.output.write_bytes(text)
    else:
        sys.stdout.write(text.decode())
    if options.html is not None:
        options.html.write_text(page(found))
    return _INTERRUPTED if any(rate.interrupted for rate in found.rates) else 0


def shape_of(options: argparse.Namespace) -> Shape:
    """Give the cluster that the options describe. Raises InputError for an impossible one."""
    if options.p99 is not None and options.trace is not None:
        raise InputError("--p99 looks for a rate, and --trace has its own: give one of them")
    if options.duration <= options.warmup:
        raise InputError(
            f"--duration: wanted more than the --warmup of {options.warmup:g} s, found "
            f"{options.duration:g}"
        )
    return Shape(
        one_machine=options.one_machine, api=options.api, api_per_machine=options.api_per_machine,
        model_servers=options.model_servers, instances=options.instances, stores=options.stores,
        cores=options.cores, policy=options.balance, model_policy=options.balance_models,
        network_s=None if options.network_ms is None else options.network_ms / 1e3,
        detect_s=options.detect, return_s=options.detect, retries=options.retries,
        target_ms=options.target_ms, budgets=PipelineConfig(deadline_ms=options.deadline_ms),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Tried:
    """A simulated rate as the search wants it."""

    result: SimulatedRate
    limit_ms: float

    @property
    def rate(self) -> float:
        return self.result.rate

    @property
    def kept(self) -> bool:
        is_full = self.result.answers.get("200 full", 0) == self.result.sent
        return is_full and self.result.latency_ms["p99"] <= self.limit_ms


class _StoppedError(Exception):
    """The person at the terminal wants no more."""


def _all_rates(
    profile: Profile, shape: Shape, options: argparse.Namespace, failures: list[Failure],
    random: RandomFailures | None,
) -> Simulated:  # fmt: skip
    trace: Trace | None = read_trace(options.trace) if options.trace else None
    rates = _rates(options.rate)

    def simulate(rate: float) -> SimulatedRate:
        return simulate_rate(
            profile, shape, rate=rate, duration_s=options.duration, warmup_s=options.warmup,
            seed=options.seed, failures=failures, random_failures=random, trace=trace,
            look=_progress(rate, options.duration),
        )  # fmt: skip

    found: list[SimulatedRate] = []
    best: float | None = None
    if options.p99 is not None:
        tried: list[_Tried] = []

        def note(one: _Tried) -> None:
            tried.append(one)
            _say(one.result)
            if one.result.interrupted:
                raise _StoppedError

        with contextlib.suppress(_StoppedError):
            find_greatest(
                lambda rate: _Tried(simulate(rate), options.p99), start=rates[0], tolerance=0.03,
                report=note,
            )  # fmt: skip
        kept = greatest([one for one in tried if not one.result.interrupted])
        best = kept.rate if kept is not None else None
        found = sorted((one.result for one in tried), key=lambda result: result.rate)
    else:
        for rate in rates:
            found.append(simulate(rate))
            _say(found[-1])
            if found[-1].interrupted:
                break
    return Simulated(
        profile=profile.name, profile_of=f"{profile.commit}, {profile.measured_at}",
        shape={
            field.name: getattr(shape, field.name)
            for field in dataclasses.fields(shape)
            if field.name != "budgets"
        } | {"deadline_ms": shape.budgets.deadline_ms},
        seed=options.seed, p99_limit_ms=options.p99, greatest_rate=best, rates=found,
    )  # fmt: skip


def _rates(text: str) -> list[float]:
    try:
        rates = [float(word) for word in text.split(",")]
        if not all(rate > 0 for rate in rates):
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"--rate: wanted requests a second, like 200 or 100,200,300, found {text!r}"
        ) from error
    return rates


def _progress(rate: float, duration_s: float) -> Callable[[float], None]:
    """Say in a terminal how far a long run is."""
    began, is_terminal = time.monotonic(), sys.stderr.isatty()

    def look(now_s: float) -> None:
        if is_terminal:
            taken = time.monotonic() - began
            sys.stderr.write(f"\r{rate:g}/s: {now_s:.0f} of {duration_s:g} s in {taken:.0f} s ")
            sys.stderr.flush()

    return look


def _say(result: SimulatedRate) -> None:
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    figures = "  ".join(f"{name} {result.latency_ms[name]:.2f}" for name in ("p50", "p95", "p99"))
    answers = {name: count for name, count in result.answers.items() if name != "200 full"}
    sys.stderr.write(f"{clear}{result.rate:g}/s: {figures} ms  {answers or 'all full'}\n")
    for stretch in result.stretches:
        full = stretch.answers.get("200 full", 0) / max(stretch.sent, 1)
        sys.stderr.write(
            f"  {stretch.begin_s:6.1f} to {stretch.end_s:6.1f} s  {stretch.name:14s} "
            f"p50 {stretch.latency_ms['p50']:.2f}  p99 {stretch.latency_ms['p99']:.2f} ms  "
            f"{100 * full:.2f} % full\n"
        )
