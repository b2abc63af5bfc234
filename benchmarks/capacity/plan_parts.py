"""What each part takes on a kind of machine, by each thing that can bound it.

A process of the API, of the model server, of Redis and of the stream worker computes on one core; a
broker of Kafka uses all cores of its machine.
"""

from __future__ import annotations

import math

import msgspec

from benchmarks.capacity.plan_demand import Demand
from benchmarks.capacity.plan_machines import Machine
from benchmarks.capacity.scaling.laws import Laws
from benchmarks.capacity.scaling.predict import (
    Work,
    call_ms,
    call_users,
    cpu_ms_a_second,
    rate_at,
)

GIB = float(2**30)
REDIS_MEMORY_PART = 0.6
"""Of a Redis machine's memory that data may take: while its file is written anew, pages that
change are there twice."""
_REDIS_PROCESS_GIB = 25.0
"""Largest Redis process: larger ones take minutes to be read again or copied to a replica."""
_MEMORY_PART = 0.85
"""Of another machine's memory that processes may hold; the rest is the kernel's."""
_KAFKA_REPLICAS = 3
_CONSUMERS = 2
"""Of each event: the stream worker, and one reader of the operator's own."""
_WORKER_GIB, _BROKER_GIB, _REDIS_EMPTY_GIB = 0.5, 6.0, 0.05
"""Resident, beside data: a worker's is the soak's (docs/load.md), a broker's Kafka's advice."""
_PACKET = 1.1
"""Bytes on the wire over bytes sent."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a part takes."""

    processes: int
    """With replicas, and with what is kept for the loss of a zone."""
    busy_cores: float
    """Of the machine, at the peak, all processes together."""
    process_gib: float
    bits: float = 0.0
    """A second, in and out of all of its machines together."""
    bounded_by: str
    disk_gib: float = 0.0
    memory_part: float = _MEMORY_PART
    a_machine_each: bool = False
    at_least: int = 1
    """Machines, so that zones and replicas lie apart."""
    says: tuple[str, ...] = ()


def api(demand: Demand, laws: Laws, machine: Machine) -> Need:
    """Size the API: requests and posted events share its processes."""
    cores = demand.utilisation * machine.relative_speed
    each = rate_at(laws, "api", demand.work, cores)
    law = laws.events["api"]
    posts = demand.events / demand.events_a_post
    event_cores = (posts * law.post + demand.events * law.event) / 1e3
    needed = demand.rate / each + event_cores / cores
    sent = laws.answer_bytes + laws.call_bytes + laws.read_bytes(demand.user_events)
    return Need(
        processes=math.ceil(needed * demand.reserve),
        busy_cores=needed * demand.utilisation,
        process_gib=(laws.api_bytes + laws.api_item_bytes * demand.items * demand.bundles) / GIB,
        bits=8 * _PACKET * (demand.rate * sent + demand.events * _event_bytes(laws)),
        bounded_by="processor", at_least=demand.zones,
        says=(f"{each:,.0f} requests a second each, {event_cores:,.0f} cores of all for events",),
    )  # fmt: skip


def _event_bytes(laws: Laws) -> float:
    """Give the bytes of an event that comes in as JSON and goes out to Kafka."""
    return laws.posted_event_bytes + laws.kafka_event_bytes


def model_server(demand: Demand, laws: Laws, machine: Machine, shards: int) -> Need:
    """Size the model servers, each of which holds one of ``shards`` parts of the items."""
    work = Work(
        items=demand.items / shards, candidates=max(1.0, demand.candidates / shards),
        history=demand.history, features=demand.features,
    )  # fmt: skip
    held = laws.model_bytes[work.kind](work.items) * demand.bundles / GIB
    if machine.has_gpu:
        return _on_gpu(demand, laws, machine, work, shards, held)
    each = rate_at(laws, "model server", work, demand.utilisation * machine.relative_speed)
    users = call_users(laws, work, min(each, laws.most_rate))
    triton = cpu_ms_a_second(laws, "triton", work, each) / 1e3 / machine.relative_speed
    needed = shards * demand.rate / each
    return Need(
        processes=shards * math.ceil(demand.rate / each * demand.reserve),
        busy_cores=needed * (demand.utilisation + triton),
        process_gib=held, bits=8 * _PACKET * demand.rate * shards * laws.call_bytes,
        bounded_by="processor", at_least=demand.zones,
        says=(f"{each:,.0f} requests a second each, {users:.1f} users in a call",),
    )  # fmt: skip


def _on_gpu(
    demand: Demand, laws: Laws, machine: Machine, work: Work, shards: int, held: float
) -> Need:
    kernel = laws.kernels[-1]
    batch = float(kernel.batch)
    on_gpu = laws.warm * call_ms(laws, work, batch) / batch / machine.gpu_cores / 1e3
    # What is no large product stays with the process beside it, which has one core.
    on_host = laws.parts["model server"].by_rate.factor
    on_host += laws.warm * (kernel.prepare_history(work.history) + kernel.rest) / batch
    on_host += cpu_ms_a_second(laws, "triton", work, laws.most_rate) / laws.most_rate
    on_host /= 1e3 * machine.relative_speed
    each = demand.utilisation / max(on_gpu, on_host)
    processes = shards * math.ceil(demand.rate / each * demand.reserve)
    return Need(
        processes=processes, busy_cores=demand.rate * shards * on_host, process_gib=held,
        bits=8 * _PACKET * demand.rate * shards * laws.call_bytes,
        bounded_by="GPU (assumed)" if on_gpu > on_host else "host processor",
        a_machine_each=True, at_least=demand.zones,
        says=(
            f"{each:,.0f} requests a second a GPU, ASSUMED to compute like "
            f"{machine.gpu_cores:g} cores: none was measured",
        ),
    )  # fmt: skip


def redis(demand: Demand, laws: Laws, machine: Machine) -> Need:
    """Size the store: primaries by memory and by commands, and a replica of each elsewhere."""
    by_users = laws.user_bytes_by_users
    # Beyond what was written a user takes what the last ones took.
    stored = min(max(demand.users, by_users.x_low), by_users.x_high)
    beside = by_users(stored) / by_users(laws.base.users)
    data = demand.users * laws.user_bytes(demand.user_events) * beside / GIB
    items = demand.items * laws.item_bytes / GIB
    data += items
    idle, most = laws.parts["redis"].idle, laws.most_rate
    in_service = (cpu_ms_a_second(laws, "redis", demand.work, most) - idle) / most
    # Of a request: what was measured in the whole system, and no less than the bare read.
    read_ms = max(in_service, laws.read_redis_ms(min(demand.users, laws.read_redis_ms.x_high)))
    writes = demand.events * laws.redis_event_us / 1e6 / machine.relative_speed
    busy = demand.rate * read_ms / 1e3 / machine.relative_speed + writes
    by_memory = math.ceil(data / _REDIS_PROCESS_GIB)
    by_processor = math.ceil(busy / demand.utilisation)
    bounds = {"memory": by_memory, "processor": by_processor, "least of a cluster": 3}
    primaries = max(bounds.values())
    copies = 2 if demand.zones > 1 else 1
    read = laws.read_bytes(demand.user_events)
    return Need(
        processes=copies * primaries, busy_cores=busy + (copies - 1) * writes,
        process_gib=data / primaries + _REDIS_EMPTY_GIB,
        bits=8 * _PACKET * read * (demand.rate + demand.events * (1 + copies)),
        bounded_by=next(name for name, count in bounds.items() if count == primaries),
        memory_part=REDIS_MEMORY_PART, at_least=2 if copies == 2 else 1,
        says=(
            f"{primaries} primaries with {copies - 1} replica each; by memory {by_memory} "
            f"({data:,.0f} GiB, {items:,.0f} of them items), by commands {by_processor}",
        ),
    )  # fmt: skip


def kafka(demand: Demand, laws: Laws, machine: Machine) -> Need:
    """Size the brokers: three copies of every event and exposure."""
    exposures = demand.rate * laws.kafka_request_bytes
    rate = demand.events * laws.kafka_event_bytes + exposures
    idle, most = laws.parts["kafka"].idle, laws.most_rate
    above = cpu_ms_a_second(laws, "kafka", demand.work, most) - idle
    # An exposure is one record more: never less than an event's, whatever noise made of it.
    exposure_ms = max(above / most, laws.kafka_event_us / 1e3)
    busy = exposure_ms * demand.rate + demand.events * laws.kafka_event_us / 1e3
    copies = _KAFKA_REPLICAS if demand.zones > 1 else 1
    busy *= copies / 1e3 / machine.relative_speed
    bits = 8 * _PACKET * rate * (2 * copies - 1 + _CONSUMERS)
    by_processor = math.ceil(busy / (demand.utilisation * machine.cores) * demand.reserve)
    disk = rate * demand.retention_days * 86_400 * copies / GIB
    return Need(
        processes=max(by_processor, copies), busy_cores=busy, process_gib=_BROKER_GIB, bits=bits,
        bounded_by="processor" if by_processor > copies else "failure reserve",
        disk_gib=disk, a_machine_each=True, at_least=copies,
        says=(
            f"{rate / 1e6:,.1f} MB a second come in, {copies} copies, "
            f"{2 * _workers(demand, laws, 1.0)} partitions or more",
        ),
    )  # fmt: skip


def stream(demand: Demand, laws: Laws, machine: Machine) -> Need:
    """Size the stream workers."""
    each = demand.utilisation * machine.relative_speed / laws.worker_us * 1e6
    workers = _workers(demand, laws, machine.relative_speed)
    return Need(
        processes=math.ceil(workers * demand.reserve), busy_cores=demand.events / each
        * demand.utilisation, process_gib=_WORKER_GIB,
        bits=8 * _PACKET * demand.events
        * (laws.kafka_event_bytes + 2 * laws.read_bytes(demand.user_events)),
        bounded_by="processor",
        at_least=min(demand.zones, 2), says=(f"{each:,.0f} events a second each",),
    )  # fmt: skip


def _workers(demand: Demand, laws: Laws, speed: float) -> int:
    seconds = demand.events * laws.worker_us / 1e6
    return max(1, math.ceil(seconds / (demand.utilisation * speed)))
