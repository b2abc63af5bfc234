"""``recsys loadtest compare A B``: is B faster than A, slower, or is no difference to be seen?

A and B are results of `recsys loadtest --output`, or folders of them, whose repeats are put
together: runs of A and B in turn share what the machine did meanwhile. The verdict rests on one
figure that is chosen beforehand: the greatest rate where one was searched, else --by (p99) at the
highest rate that both measured. It needs four repeats of each. Prints one JSON result on standard
output; exit code 1 when B is slower, or fails more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.loadtest.ratio import LEAST_REPEATS, Ratio, bootstrap_ratio
from benchmarks.loadtest.result import Repeat, Result, Step, read_result
from recsys.errors import InputError

Verdict = Literal["faster", "slower", "no difference seen", "no verdict"]
_LATENCIES = ("p50", "p95", "p99", "mean")
_ALIKE = ("searched", "objective", "profile", "mix", "machine")


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of both; ``None`` where it is not known."""

    name: str
    unit: str
    a: list[float]
    """By repeat."""
    b: list[float]
    ratio: float | None
    low: float | None
    high: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of two results."""

    schema: str = "recsys-loadtest-comparison/1"
    a: str
    b: str
    verdict: Verdict
    """Of B, beside A."""
    why: str
    figures: list[Figure]
    """The first is the one the verdict rests on."""
    errors: dict[str, float]
    """Share of requests without a good answer, of A and B."""
    notes: list[str]


def compare(a: list[Result], b: list[Result], *, by: str = "p99", seed: int = 0) -> Comparison:
    """Compare results of A with those of B. Raises InputError when they have nothing in common."""
    differing = [
        f"{name}: {getattr(a[0], name)!r} and {getattr(other, name)!r}"
        for name in _ALIKE
        for other in [*a[1:], *b]
        if getattr(other, name) != getattr(a[0], name)
    ]
    if any(result.searched != a[0].searched for result in [*a, *b]):
        raise InputError(
            "wanted a search (--slo with the constant profile) in all results or in none, found "
            "both; measure them in the same way"
        )
    sides = [[repeat for result in side for repeat in result.repeats] for side in (a, b)]
    found = _searched(sides, seed) if a[0].searched else _at_rates(sides, by, seed)
    higher_is_better = a[0].searched
    first = found[0]
    errors = {name: _errors(side) for name, side in zip(("a", "b"), sides, strict=True)}
    verdict, why = _judge(first, sides, higher_is_better, errors)
    notes = [f"not measured alike: {said}" for said in dict.fromkeys(differing)]
    late = sum(step.is_late for side in sides for repeat in side for step in repeat.steps)
    if late and not a[0].searched:
        notes.append(f"in {late} steps the generator was late: they measured the generator")
    return Comparison(
        a=a[0].name, b=b[0].name, verdict=verdict, why=why, figures=found, errors=errors,
        notes=notes,
    )  # fmt: skip


def _judge(
    first: Figure, sides: list[list[Repeat]], higher_is_better: bool, errors: dict[str, float]
) -> tuple[Verdict, str]:
    count = [len(first.a), len(first.b)]
    if min(count) < LEAST_REPEATS:
        held = " of repeats in which a rate held" if higher_is_better else " repeats"
        return "no verdict", (
            f"wanted at least {LEAST_REPEATS}{held} of each to know the noise, found {count[0]} "
            f"and {count[1]}; measure with --repeats"
        )
    assert first.ratio is not None and first.low is not None and first.high is not None
    found = Ratio(ratio=first.ratio, low=first.low, high=first.high)
    said = (
        f"{first.name}: B / A = {found.ratio:.3f}, with 95 % confidence {found.low:.3f} to "
        f"{found.high:.3f} ({count[0]} and {count[1]} repeats)"
    )
    if not higher_is_better and errors["b"] > max(2 * errors["a"], errors["a"] + 0.001):
        return "slower", f"B fails more: {100 * errors['b']:.2f} % beside {100 * errors['a']:.2f} %"
    if found.is_more:
        return ("faster" if higher_is_better else "slower"), said
    if found.is_less:
        return ("slower" if higher_is_better else "faster"), said
    return "no difference seen", said


def _searched(sides: list[list[Repeat]], seed: int) -> list[Figure]:
    rates = [[r.greatest_rate for r in side if r.greatest_rate is not None] for side in sides]
    return [_figure("greatest rate", "requests/s", rates[0], rates[1], seed)]


def _at_rates(sides: list[list[Repeat]], by: str, seed: int) -> list[Figure]:
    rates = [{s.rate for repeat in side for s in repeat.steps if s.sent} for side in sides]
    common = sorted(rates[0] & rates[1], reverse=True)
    if not common:
        raise InputError(
            f"wanted a rate that both measured, found {sorted(rates[0])} and {sorted(rates[1])}"
        )
    figures = []
    for rate in common:
        for name in (by, *(name for name in _LATENCIES if name != by)):

            def latency(step: Step, name: str = name) -> float:
                try:
                    return step.latency_ms[name]
                except KeyError as error:
                    known = ", ".join(step.latency_ms)
                    raise InputError(f"--by: wanted one of {known}, found {name!r}") from error

            a, b = (_values(side, rate, latency) for side in sides)
            figures.append(_figure(f"{name} at {rate:g}/s", "ms", a, b, seed))
        a, b = (_values(side, rate, lambda step: step.answered_per_s) for side in sides)
        figures.append(_figure(f"good answers at {rate:g}/s", "requests/s", a, b, seed))
    return figures


def _values(side: list[Repeat], rate: float, value: Callable[[Step], float]) -> list[float]:
    steps = [step for repeat in side for step in repeat.steps if step.rate == rate and step.sent]
    return [value(step) for step in steps]


def _figure(name: str, unit: str, a: list[float], b: list[float], seed: int) -> Figure:
    positive = all(value > 0 for value in [*a, *b])
    found = bootstrap_ratio(a, b, seed=seed) if positive else bootstrap_ratio([], [])
    ratio, low, high = (None if v != v else v for v in (found.ratio, found.low, found.high))
    return Figure(name=name, unit=unit, a=a, b=b, ratio=ratio, low=low, high=high)


def _errors(side: list[Repeat]) -> float:
    steps = [step for repeat in side for step in repeat.steps]
    sent = sum(step.sent for step in steps)
    return sum(step.errors * step.sent for step in steps) / sent if sent else 0.0


def read_side(path: Path) -> list[Result]:
    """Read a result, or all of a folder. Raises InputError when there is none."""
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not paths:
        raise InputError(f"wanted results (*.json) in {path}, found none")
    return [read_result(one) for one in paths]


def show(console: Console, found: Comparison) -> None:
    """Print it for a person."""
    table = Table(title=f"A: {found.a}   B: {found.b}", title_justify="left")
    for head in ("figure", "A", "B", "B / A", "95 % interval"):
        table.add_column(head, justify="left" if head == "figure" else "right")
    for figure in found.figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
        interval = "" if figure.low is None else f"{figure.low:.3f} … {figure.high:.3f}"
        values = [_middle(side, figure.unit) for side in (figure.a, figure.b)]
        table.add_row(figure.name, *values, ratio, interval)
    console.print(table)
    for note in found.notes:
        console.print(f"[yellow]{note}[/yellow]", soft_wrap=True)
    console.print(f"B is [bold]{found.verdict}[/bold]: {found.why}" if found.verdict in
                  ("faster", "slower") else f"[bold]{found.verdict}[/bold]: {found.why}",
                  soft_wrap=True, highlight=False)  # fmt: skip


def _middle(values: list[float], unit: str) -> str:
    if not values:
        return ""
    middle = sorted(values)[len(values) // 2]
    return f"{middle:,.2f} {unit}"


def main(argv: Sequence[str]) -> int:
    """Compare and report."""
    parser = argparse.ArgumentParser(
        prog="recsys loadtest compare", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("a", type=Path, help="a result, or a folder of results")
    parser.add_argument("b", type=Path, help="what is compared with it")
    parser.add_argument("--by", default="p99", help="latency the verdict rests on")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_args(argv)
    found = compare(read_side(args.a), read_side(args.b), by=args.by, seed=args.seed)
    show(Console(stderr=True), found)
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return 1 if found.verdict == "slower" else 0
