"""``recsys loadtest probe``: how soon is what happens to be seen in answers?

  recsys loadtest probe                                            a minute, a tracer a second
  recsys loadtest probe --background-rate 50 --html probe.html     the same under load
  recsys loadtest probe --objective 'answer.p99<1s,created.p99<2s,withdrawn.p99<2s'

Sends tracers through the real path of a running system at random moments: an item is created,
clicked and withdrawn. Asks for each change until it is seen, and says how long that took. Tracers
are users and items of their own, and are withdrawn at the end, also after Ctrl-C.

Prints what was measured on standard error and one JSON result on standard output. Sends the key in
RECSYS_API_KEY, if any. Exit code 1 when the objective did not hold or, without one, when a tracer
was lost or not accepted; 2 when nothing could be measured; 130 when it was interrupted, with what
was measured until then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console

from benchmarks.loadtest.measure import Plan
from benchmarks.loadtest.observed import system_at
from benchmarks.loadtest.probe.background import Background
from benchmarks.loadtest.probe.options import parse_args
from benchmarks.loadtest.probe.page import page
from benchmarks.loadtest.probe.prober import DWELL_S, ProbeConfig, Prober
from benchmarks.loadtest.probe.progress import Progress, say
from benchmarks.loadtest.probe.result import Asked, ProbeResult, encode, summarise
from benchmarks.loadtest.probe.service import Service
from benchmarks.loadtest.probe.watching import WatchConfig
from benchmarks.loadtest.profiles import parse_profile
from benchmarks.loadtest.sender import SenderConfig
from benchmarks.loadtest.stages import StageMetrics
from benchmarks.loadtest.targets import Address, parse_address
from benchmarks.loadtest.traffic import read_users
from benchmarks.loadtest.written import hand_over, this_machine, versions
from benchmarks.peers.surroundings import commit
from recsys.errors import InputError
from recsys.metrics_page import metrics_page
from recsys.settings import Settings

_WARM_UP_S = 2.0
_INTERRUPTED = 130
_REDRAW_S, _REDRAW_SHARE = 0.25, 50.0
_TAIL_S = 2 * DWELL_S + 1.0
"""From the last tracer's beginning to its end, where all goes well."""
_LIST_LENGTH, _CLICK_RATE, _ZIPF, _PATIENCE_S = 10, 0.3, 1.0, 5.0


def main(argv: Sequence[str]) -> int:
    """Measure and report."""
    args = parse_args(__doc__, argv)
    address = parse_address(args.url)
    if address.scheme not in ("http", "https"):
        raise InputError(f"wanted the HTTP API (http:// or https://), found --url {args.url}")
    console = Console(stderr=True)
    background = _background(args, address) if args.background_rate else None
    for path in (args.output, args.html):
        if path:  # found impossible now rather than after the run
            path.parent.mkdir(parents=True, exist_ok=True)
    with metrics_page(args.metrics_port, Settings().host):
        result = asyncio.run(_measure(args, address, background, console))
    say(console, result)
    hand_over(encode(result), lambda: page(result), output=args.output, html=args.html)
    if result.interrupted:
        return _INTERRUPTED
    return 0 if is_fine(result) else 1


def is_fine(result: ProbeResult) -> bool:
    """Say whether all went as wanted; see above for the exit code."""
    if result.items_left:
        return False
    if result.objective:
        return not result.missed
    paths = result.paths.values()
    return all(path.seen and not path.lost and not path.refused for path in paths)


async def _measure(
    args: argparse.Namespace, address: Address, background: Background | None, console: Console
) -> ProbeResult:
    watch = WatchConfig(
        pause_s=args.poll / 1e3, timeout_s=args.timeout, in_a_row=args.in_a_row
    )  # fmt: skip
    config = ProbeConfig(
        rate=args.rate, duration_s=args.duration, watch=watch, seed=args.seed
    )  # fmt: skip
    service = Service(address)
    prober = Prober(service=service, config=config)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    with _asked_to_stop() as stop:
        await prober.clear()
        try:
            if background is not None:
                background.start()
                while not stop.is_set() and not background.wait_warm(0):
                    await asyncio.sleep(0.05)
            cpu_s, asked, asked_s = time.process_time(), service.num_asked, service.asked_s
            unusable = service.num_unusable
            with Progress(console, prober, background) as shown:
                drawing = asyncio.create_task(_draw(shown, prober))
                try:
                    await prober.run(stop)
                finally:
                    drawing.cancel()
            interrupted = stop.is_set()
        finally:
            if background is not None:
                await asyncio.to_thread(background.stop)
    elapsed_s = max(prober.end_s - prober.begin_s, 1e-9)
    questions = service.num_asked - asked
    more = args.objective.percentiles() if args.objective else ()
    paths = summarise(prober.observations, more)
    return ProbeResult(
        target=str(address), began=began, duration_s=round(elapsed_s, 3), commit=commit(),
        versions=versions(), machine=this_machine(),
        settings={
            "rate": args.rate, "duration_s": args.duration, "timeout_s": args.timeout,
            "poll_ms": args.poll, "in_a_row": args.in_a_row, "dwell_s": DWELL_S,
            "background_rate": args.background_rate, "processes": args.processes,
            "mix": ",".join(f"{kind}={weight:g}" for kind, weight in args.mix.items()),
            "seed": args.seed,
        },
        objective=args.objective.text if args.objective else "",
        missed=args.objective.missed(paths) if args.objective else [],
        interrupted=interrupted, paths=paths,
        asked=Asked(
            questions=questions, per_s=round(questions / elapsed_s, 2),
            mean_ms=round(1e3 * (service.asked_s - asked_s) / max(questions, 1), 3),
            unusable=service.num_unusable - unusable,
            cores=round((time.process_time() - cpu_s) / elapsed_s, 3),
        ),
        items_cleared=prober.items_cleared, items_left=prober.items_left,
        background=background.step if background is not None else None,
        observations=sorted(prober.observations, key=lambda o: o.sent_s),
    )  # fmt: skip


async def _draw(shown: Progress, prober: Prober) -> None:
    while shown.is_shown:
        began_s = time.perf_counter()
        shown.draw(began_s - prober.begin_s if prober.begin_s else 0.0)
        # After hours there is much to look through.
        await asyncio.sleep(max(_REDRAW_S, _REDRAW_SHARE * (time.perf_counter() - began_s)))


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[asyncio.Event]:
    """Give what is set by the first Ctrl-C or SIGTERM; the second one ends as usual."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def forget() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def tell() -> None:
        told.set()
        forget()

    for number in signals:
        loop.add_signal_handler(number, tell)
    try:
        yield told
    finally:
        forget()


def _background(args: argparse.Namespace, address: Address) -> Background:
    user_ids = read_users(args.users)
    plan = Plan(
        rate=args.background_rate, duration_s=args.duration + _TAIL_S, warmup_s=_WARM_UP_S,
        profile=parse_profile("constant"), trace=None, mix=args.mix, user_ids=user_ids, zipf=_ZIPF,
        timeout_s=_PATIENCE_S, objective=None, searches=False, tolerance=0.05,
    )  # fmt: skip
    config = SenderConfig(
        address=address, template=None, user_ids=user_ids, k=_LIST_LENGTH, click_rate=_CLICK_RATE,
        learns=any(args.mix.get(kind) for kind in ("rank", "similar", "events")),
        timeout_s=_PATIENCE_S, seed=(args.seed,),
    )  # fmt: skip
    return Background(
        plan=plan, config=config, parts=system_at(address, Settings().state_dir),
        metrics=StageMetrics(f"{address}/metrics", address.tls()), num_processes=args.processes,
        seed=args.seed,
    )  # fmt: skip
