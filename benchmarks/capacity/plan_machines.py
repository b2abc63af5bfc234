"""The machines a plan may use, and what they cost: a file that is meant to be replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from recsys.errors import InputError

DEFAULT = Path(__file__).with_name("machines.toml")
Positive = Annotated[float, Meta(gt=0)]
Price = Annotated[float, Meta(ge=0)]


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind."""

    cores: Annotated[int, Meta(ge=1)]
    relative_speed: Positive
    memory_gib: Positive
    network_gbit: Positive
    disk_gib: Positive
    """At most, paid for apart by what is used."""
    price_per_hour: Price
    gpu_cores: Price = 0.0
    """How many of its cores' arithmetic the GPU replaces: assumed, never measured."""
    gpu_memory_gib: Price = 0.0

    @property
    def has_gpu(self) -> bool:
        """Whether it has one."""
        return self.gpu_cores > 0


class Machines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    currency: str
    as_of: str
    disk_price_per_gib_month: Price
    machines: Annotated[dict[str, Machine], Meta(min_length=1)]


def read_machines(path: Path = DEFAULT) -> Machines:
    """Read the file. Raises InputError saying what is wrong with it."""
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=Machines)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            f"wanted machines and prices in {path.name}, found: {error}; see the head of "
            "benchmarks/capacity/machines.toml for what it says"
        ) from error
    if all(machine.has_gpu for machine in found.machines.values()):
        raise InputError(f"wanted a machine without a GPU in {path.name}, found none; add one")
    return found
