"""``recsys loadtest``: send load in an open loop, and say what a service makes of it.

  recsys loadtest --rate 50 --duration 30
  recsys loadtest --rate 20 --slo 'p99<50ms,errors<0.1%'      the highest rate that holds it
  recsys loadtest --profile ramp:10..300 --duration 2m --html ramp.html
  recsys loadtest --mix recommend=8,similar=1,events=1
  recsys loadtest --url grpc://127.0.0.1:8090
  recsys loadtest --url http://127.0.0.1:9000 --template service.toml       your present service
  recsys loadtest compare A.json B.json          which is faster, beyond the noise?
  recsys loadtest probe --duration 60            how soon is what happens to be seen in answers?

Prints what was measured on standard error and one JSON result on standard output. Sends the key in
RECSYS_API_KEY, if any. Exit code 1 when an answer was an error or, with --slo, the objective did
not hold (of a search: at no rate), or in a soak memory grew; 130 when it was interrupted, with what
was measured until then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console

from benchmarks.loadtest import compare
from benchmarks.loadtest.measure import Measuring, Plan
from benchmarks.loadtest.observed import named_parts, system_at, system_parts
from benchmarks.loadtest.options import parse_args
from benchmarks.loadtest.page import page
from benchmarks.loadtest.probe import command as probe
from benchmarks.loadtest.progress import Progress
from benchmarks.loadtest.result import Repeat, Result, encode
from benchmarks.loadtest.sender import SenderConfig
from benchmarks.loadtest.senders import Senders
from benchmarks.loadtest.stages import StageMetrics
from benchmarks.loadtest.targets import parse_address
from benchmarks.loadtest.template import read_template
from benchmarks.loadtest.trace import read_trace
from benchmarks.loadtest.traffic import read_users
from benchmarks.loadtest.written import hand_over, this_machine, versions
from recsys.settings import Settings

_DEFAULT_RATE = 50.0
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["compare"]:
        return compare.main(given[1:])
    if given[:1] == ["probe"]:
        return probe.main(given[1:])
    args = parse_args(__doc__, given)
    console = Console(stderr=True)
    address = parse_address(args.url)
    if args.template:
        read_template(args.template).check(args.mix, args.template)
    plan = _plan(args)
    config = SenderConfig(
        address=address, template=args.template, user_ids=tuple(plan.user_ids), k=args.k,
        click_rate=args.click_rate,
        learns=any(plan.mix.get(kind) for kind in ("rank", "similar", "events")),
        timeout_s=args.timeout, seed=(args.seed,),
    )  # fmt: skip
    state_dir = Settings().state_dir
    parts = system_parts(args.state) if args.state else system_at(address, state_dir)
    parts |= named_parts(args.pid)
    is_ours = address.scheme in ("http", "https") and not args.template
    page_of_metrics = args.metrics or (f"{address}/metrics" if is_ours else None)
    metrics = StageMetrics(page_of_metrics, address.tls())
    for path in (args.output, args.html):
        if path:  # found impossible now rather than after hours
            path.parent.mkdir(parents=True, exist_ok=True)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    repeats: list[Repeat] = []
    with (
        Senders(config, args.processes) as senders,
        Progress(console, duration_s=plan.length_s, has_objective=args.slo is not None) as shown,
    ):
        measuring = Measuring(plan, senders, shown.watch, parts, metrics)
        for number in range(args.repeats):
            repeats.append(measuring.repeat(args.seed + number, shown.report))
            if measuring.interrupted:
                break
    result = _result(args, plan, str(address), began, repeats)
    _say(console, result)
    if args.metrics and metrics.trouble:
        console.print(f"[yellow]no stages: {metrics.trouble}[/yellow]", soft_wrap=True)
    hand_over(encode(result), lambda: page(result), output=args.output, html=args.html)
    if measuring.interrupted:
        return _INTERRUPTED
    return 0 if is_fine(result) else 1


def _plan(args: argparse.Namespace) -> Plan:
    trace = read_trace(args.trace) if args.trace else None
    user_ids = read_users(args.users)
    if trace is not None and trace.users is not None:
        user_ids = tuple(dict.fromkeys(trace.users))
    return Plan(
        rate=args.rate or (trace.rate_per_s if trace else _DEFAULT_RATE),
        duration_s=args.duration, warmup_s=args.warmup, profile=args.profile, trace=trace,
        mix=args.mix, user_ids=user_ids, zipf=args.zipf, timeout_s=args.timeout,
        objective=args.slo, tolerance=args.tolerance,
        searches=args.slo is not None and args.profile.kind == "constant" and trace is None,
    )  # fmt: skip


def _result(
    args: argparse.Namespace, plan: Plan, target: str, began: str, repeats: list[Repeat]
) -> Result:
    return Result(
        name=args.name or target, target=target,
        profile="trace" if plan.trace else args.profile.text, mix=plan.mix,
        objective=args.slo.text if args.slo else "", searched=plan.searches, began=began,
        machine=this_machine(), versions=versions(),
        settings={
            "rate": plan.rate, "duration_s": plan.length_s, "warmup_s": args.warmup, "k": args.k,
            "users": len(plan.user_ids), "zipf": args.zipf, "click_rate": args.click_rate,
            "timeout_s": args.timeout, "processes": args.processes, "seed": args.seed,
            "tolerance": args.tolerance,
        },
        repeats=repeats,
    )  # fmt: skip


def is_fine(result: Result) -> bool:
    """Say whether all went as wanted; see above for the exit code."""
    if result.searched:
        return all(repeat.greatest_rate is not None for repeat in result.repeats)
    steps = result.steps()
    if any(step.errors or not step.sent for step in steps):
        return False
    if any(step.grown for step in steps):
        return False
    return not result.objective or all(step.kept for step in steps)


def _say(console: Console, result: Result) -> None:
    for repeat in result.repeats:
        if result.searched:
            found = repeat.greatest_rate
            console.print(
                f"[bold]{result.objective}[/bold] holds "
                + ("at no rate that was tried" if found is None else f"up to {found:g}/s")
            )
    steps = result.steps()
    wrong = {name: n for s in steps for name, n in s.answers.items() if name[:1] != "2"}
    if wrong and not result.searched:
        console.print(f"[yellow]errors: {wrong}[/yellow]")
    for step in steps:
        if step.saturation is not None and not step.is_late:
            said = f"{step.rate:g}/s is held back by {step.saturation.cause}"
            console.print(f"{said}: {'; '.join(step.saturation.evidence)}", soft_wrap=True)
        for part, grew in step.grown.items():
            console.print(f"[yellow]{part} grew: {grew}[/yellow]")
    late = [step for step in steps if step.is_late]
    if late:
        console.print(
            f"[yellow]the generator itself ran late at {', '.join(f'{s.rate:g}/s' for s in late)} "
            f"(p99 {max(s.generator_late_p99_ms for s in late):.1f} ms): these latencies include "
            "waiting for a free core; use more --processes, or another machine[/yellow]"
        )


if __name__ == "__main__":
    sys.exit(main())
