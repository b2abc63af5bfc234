"""``recsys capacity plan``: how many of what a load takes, and what bounds each.

  recsys capacity plan --users 100e6 --rate 50000 --items 10e6
  recsys capacity plan --users 2e6 --rate 400 --items 80000 --events 900 --json
  recsys capacity plan --users 2e6 --rate 400 --items 80000 --machines mine.toml

Computes with the laws of the scaling study's newest committed result (docs/capacity.md says how far
they hold) and with the machines and prices of benchmarks/capacity/machines.toml, which are
illustrative, unless --machines names a file of yours. Exit code 2 for a demand that cannot be
planned.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.capacity.plan import Plan, make_plan
from benchmarks.capacity.plan_demand import Demand
from benchmarks.capacity.plan_machines import DEFAULT, read_machines
from benchmarks.capacity.scaling.kept import newest_laws
from recsys.errors import InputError

_WRONG = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Plan and print."""
    options = _parser().parse_args(argv)
    try:
        events = 2 * options.rate if options.events is None else options.events
        demand = Demand(
            events=events,
            **{
                name: getattr(options, name)
                for name in Demand.__struct_fields__
                if name != "events"
            },
        )
        laws, source = newest_laws()
        plan = make_plan(demand, laws, read_machines(options.machines))
    except InputError as error:
        sys.stderr.write(f"recsys capacity plan: {error}\n")
        return _WRONG
    if options.json:
        sys.stdout.write(msgspec.json.encode({"laws": source, "plan": plan}).decode() + "\n")
    else:
        console = Console()
        _show(Console(width=max(console.width, _WIDTH)), plan, source)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys capacity plan", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    usual = {
        field.name: field.default
        for field in msgspec.structs.fields(Demand)
        if field.default is not msgspec.NODEFAULT
    }
    add("--users", type=float, required=True, help="whose features are stored")
    add("--items", type=float, required=True, help="of the catalogue")
    add("--rate", type=float, required=True, help="recommendations a second, at the peak")
    add("--events", type=float, help="events a second at the peak (default: twice --rate)")
    add("--user-events", type=float, default=usual["user_events"], help="of a stored user")
    add("--events-a-post", type=float, default=usual["events_a_post"], help="in one request")
    add("--candidates", type=float, default=usual["candidates"], help="ranked for a request")
    add("--history", type=float, default=usual["history"], help="items of a user the model sees")
    add("--features", type=float, help="moving features of an item (default: those declared)")
    add("--utilisation", type=float, default=usual["utilisation"], help="of a core, at the peak")
    add("--zones", type=int, default=usual["zones"], help="of which one may be lost; 1: none may")
    add("--retention-days", type=float, default=usual["retention_days"], help="of events in Kafka")
    add("--bundles", type=int, default=usual["bundles"], help="a model server holds at once")
    add("--gpu", action="store_true", help="model servers on GPUs: an assumption, not measured")
    add("--machines", type=Path, default=DEFAULT, metavar="FILE", help="machines and prices")
    add("--json", action="store_true", help="one line of JSON")
    return parser


def _show(console: Console, plan: Plan, source: str) -> None:
    table = Table(box=None, pad_edge=False)
    for head in ("part", "processes", "machines", "of kind", "bounded by", "busy cores",
                 "memory GiB", f"{plan.currency} a month"):  # fmt: skip
        table.add_column(head, justify="left" if head in _WORDS else "right")
    for line in plan.lines:
        table.add_row(
            line.part, f"{line.processes:,}", f"{line.machines:,}", line.machine, line.bounded_by,
            f"{line.busy_cores:,.1f}", f"{line.memory_gib:,.0f}", f"{line.cost_a_month:,.0f}",
        )  # fmt: skip
    table.add_row("all", "", f"{plan.machines:,}", "", "", "", "", f"{plan.cost_a_month:,.0f}")
    console.print(table)
    for line in plan.lines:
        for said in line.says:
            console.print(f"{line.part}: {said}", soft_wrap=True)
    spent = ", ".join(f"{part} {ms:.2f}" for part, ms in plan.cpu_ms_a_request.items())
    console.print(f"CPU milliseconds of a request: {spent}", soft_wrap=True)
    million = plan.cost_a_million_requests
    console.print(
        f"{million:,.2f} {plan.currency} for a million requests at the peak's rate; prices: "
        f"{plan.prices_as_of}; laws: {source}", soft_wrap=True,
    )  # fmt: skip
    for said in plan.extrapolated:
        console.print(f"[yellow]extrapolated: {said}[/yellow]", soft_wrap=True)


_WIDTH = 112
"""Of the table; a narrower terminal folds it, a file does not."""
_WORDS = {"part", "of kind", "bounded by"}

if __name__ == "__main__":
    sys.exit(main())
