"""How many of what a load takes: pure functions of the demand, the laws and the machines.

Every part is sized by each thing that can bound it; the greatest wins and is named. Of the machines
the cheapest is taken. Nothing is drawn and nothing is remembered: the same question has one answer.

* A process that computes on one core is given so many requests that it uses ``utilisation`` of that
  core by the measured curve, which has its idling and the gain of larger calls in it.
* Losing one of ``zones`` must leave enough: what holds no data is bought ``zones / (zones - 1)``
  times, what holds data has a replica.
* Model servers hold all items. Where a machine has not the memory for a process on every core,
  cores stay idle; where it has not for one, items must be split, which the model server cannot do
  today: the plan says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import msgspec

from benchmarks.capacity import plan_parts
from benchmarks.capacity.plan_demand import Demand
from benchmarks.capacity.plan_machines import Machine, Machines
from benchmarks.capacity.plan_parts import Need
from benchmarks.capacity.scaling.laws import PARTS, Laws
from benchmarks.capacity.scaling.predict import cpu_ms_a_second, rate_at
from recsys.errors import InputError

HOURS_A_MONTH = 730.0
_NETWORK_PART = 0.5
"""Of a machine's network that may be used at the peak."""
_MOST_SHARDS = 1024


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the answer."""

    part: str
    processes: int
    """With replicas, and with what is kept for the loss of a zone."""
    machines: int
    machine: str
    bounded_by: str
    """What sets the number of machines: processor, memory, network, GPU or failure reserve."""
    busy_cores: float
    """At the peak, all processes together, nothing failed."""
    memory_gib: float
    """That is held, all processes together."""
    disk_gib: float
    cost_a_month: float
    says: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    demand: Demand
    lines: tuple[Line, ...]
    machines: int
    gpus: int
    shards: int
    """Parts the items are split into: more than 1 is not built."""
    cost_a_month: float
    cost_a_million_requests: float
    """Were the peak's rate asked for all the month."""
    currency: str
    prices_as_of: str
    cpu_ms_a_request: dict[str, float]
    """By part, in processes at the load they are given; events not among them."""
    extrapolated: tuple[str, ...]
    """Which laws are used beyond what was measured."""

    def line(self, part: str) -> Line:
        """Give the line of a part."""
        return next(line for line in self.lines if line.part == part)


def make_plan(demand: Demand, laws: Laws, machines: Machines) -> Plan:
    """Give the cheapest plan. Raises InputError for a demand that no machine can hold."""
    demand = demand.checked()
    _check_idling(demand, laws, machines)
    servers, shards = _model_servers(demand, laws, machines)
    lines = (
        _cheapest("API", machines, lambda machine: plan_parts.api(demand, laws, machine)),
        servers,
        _cheapest("Redis", machines, lambda machine: plan_parts.redis(demand, laws, machine)),
        _cheapest("Kafka", machines, lambda machine: plan_parts.kafka(demand, laws, machine)),
        _cheapest("stream", machines, lambda machine: plan_parts.stream(demand, laws, machine)),
    )
    cost = sum(line.cost_a_month for line in lines)
    has_gpu = machines.machines[servers.machine].has_gpu
    return Plan(
        demand=demand, lines=lines, machines=sum(line.machines for line in lines),
        gpus=servers.machines if has_gpu else 0, shards=shards, cost_a_month=cost,
        cost_a_million_requests=cost / (demand.rate * HOURS_A_MONTH * 3600) * 1e6,
        currency=machines.currency, prices_as_of=machines.as_of,
        cpu_ms_a_request=_cpu_ms_a_request(demand, laws), extrapolated=_extrapolated(demand, laws),
    )  # fmt: skip


def _check_idling(demand: Demand, laws: Laws, machines: Machines) -> None:
    for name, machine in machines.machines.items():
        cores = demand.utilisation * machine.relative_speed
        for part in ("api", "model server"):
            if not rate_at(laws, part, demand.work, cores):
                raise InputError(
                    f"wanted a process of the {part} to have some of a core left, found that it "
                    f"idles with all of {cores:.3f} cores of {name}; raise --utilisation"
                )


def _model_servers(demand: Demand, laws: Laws, machines: Machines) -> tuple[Line, int]:
    shards = 1
    while shards <= _MOST_SHARDS:
        try:
            line = _cheapest(
                "model server", machines,
                lambda machine: plan_parts.model_server(demand, laws, machine, shards),  # noqa: B023
                with_gpu=demand.gpu,
            )  # fmt: skip
        except InputError:
            shards *= 2
            continue
        says = (*line.says, *_of_splitting(demand, laws, machines, line, shards))
        return msgspec.structs.replace(line, says=says), shards
    raise InputError(
        f"wanted model servers that hold {demand.items:g} items, found no machine with the memory; "
        "name larger ones with --machines"
    )


def _of_splitting(
    demand: Demand, laws: Laws, machines: Machines, line: Line, shards: int
) -> Iterator[str]:
    """Say that items are split, or what it would save: the model server cannot do it today."""
    if shards > 1:
        yield f"items split into {shards} parts: NOT BUILT"
    if line.bounded_by != "memory":
        return
    others = [
        (
            parts,
            _cheapest(
                "model server", machines,
                lambda machine: plan_parts.model_server(demand, laws, machine, parts),  # noqa: B023
                with_gpu=demand.gpu,
            ),
        )
        for parts in (2 * shards, 4 * shards, 8 * shards, 16 * shards)
    ]  # fmt: skip
    parts, best = min(others, key=lambda other: other[1].cost_a_month)
    if best.cost_a_month < line.cost_a_month:
        yield (
            f"were items split into {parts} parts (NOT BUILT), {best.machines:,} {best.machine} "
            f"machines, at {best.cost_a_month / line.cost_a_month:.0%} of this cost"
        )


def _cheapest(
    part: str,
    machines: Machines,
    need_on: Callable[[Machine], Need],
    *,
    with_gpu: bool = False,
) -> Line:
    found = []
    for name, machine in machines.machines.items():
        if machine.has_gpu != with_gpu:
            continue
        line = _line(part, name, machine, need_on(machine), machines.disk_price_per_gib_month)
        if line is not None:
            found.append(line)
    if not found:
        raise InputError(
            f"wanted a machine {'with a GPU ' if with_gpu else ''}that a process of {part} fits, "
            "found none; name larger ones with --machines"
        )
    return min(found, key=lambda line: line.cost_a_month)


def _line(part: str, name: str, machine: Machine, need: Need, disk_price: float) -> Line | None:
    """Put processes on machines of one kind; None where not one fits."""
    memory = machine.gpu_memory_gib if machine.has_gpu else machine.memory_gib
    by_memory = int(memory * need.memory_part / need.process_gib)
    if not by_memory:
        return None
    on_one = 1 if need.a_machine_each else min(machine.cores, by_memory)
    bounds = {
        need.bounded_by: math.ceil(need.processes / on_one),
        "network": math.ceil(need.bits / (machine.network_gbit * 1e9 * _NETWORK_PART)),
        "disk": math.ceil(need.disk_gib / machine.disk_gib),
        "failure reserve": need.at_least,
    }
    if on_one < machine.cores and not need.a_machine_each:
        bounds = {"memory" if name == need.bounded_by else name: n for name, n in bounds.items()}
    count = max(bounds.values())
    price = count * machine.price_per_hour * HOURS_A_MONTH + need.disk_gib * disk_price
    processes = max(need.processes, count) if need.a_machine_each else need.processes
    says = need.says
    if on_one < machine.cores and not need.a_machine_each:
        says = (*says, f"memory leaves {machine.cores - on_one} of {machine.cores} cores idle")
    return Line(
        part=part, processes=processes, machines=count, machine=name,
        bounded_by=next(name for name, n in bounds.items() if n == count),
        busy_cores=need.busy_cores, memory_gib=processes * need.process_gib,
        disk_gib=need.disk_gib, cost_a_month=price, says=says,
    )  # fmt: skip


def _cpu_ms_a_request(demand: Demand, laws: Laws) -> dict[str, float]:
    found = {}
    for part in PARTS:
        if part == "stream":
            continue
        rate = laws.most_rate
        if part in ("api", "model server"):
            rate = max(rate_at(laws, part, demand.work, demand.utilisation), 1e-9)
        found[part] = cpu_ms_a_second(laws, part, demand.work, rate) / rate
    return found


def _extrapolated(demand: Demand, laws: Laws) -> tuple[str, ...]:
    """Name the laws that are asked beyond what they were measured at."""
    work, kernel = demand.work, laws.kernels[0]
    asked = {
        f"items ({work.kind} search)": (kernel.retrieve_items[work.kind], demand.items),
        f"memory of items ({work.kind})": (laws.model_bytes[work.kind], demand.items),
        "candidates": (kernel.rank_candidates, demand.candidates),
        "history": (kernel.rank_history, demand.history),
        "users in Redis": (laws.user_bytes_by_users, demand.users),
        "events of a user": (laws.user_bytes, demand.user_events),
    }
    if demand.features is not None:
        asked["features of an item"] = (kernel.rank_features, demand.features)
    return tuple(
        f"{name}: {value:g}, measured {law.x_low:g} to {law.x_high:g}"
        for name, (law, value) in asked.items()
        if not law.is_measured_at(value)
    )
