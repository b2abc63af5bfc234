"""What a simulated cluster consists of, what is asked of it, and what fails when."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from benchmarks.capacity.simulation.balancing import Policy
from recsys.answers.budgets import PipelineConfig
from recsys.errors import InputError

_FAILURE = re.compile(r"(?P<at>[\d.]+):(?P<lasts>[\d.]+)(?::(?P<node>[a-z]+-\d+))?(?P<s>:silent)?")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A node that dies and answers again."""

    at_s: float
    lasts_s: float
    """Until it answers again: its restart and the loading of a bundle are part of that."""
    node: str = "model-1"
    silently: bool = False
    """Its machine is gone: nobody refuses a connection, calls are never answered."""


@dataclass(frozen=True, kw_only=True)
class RandomFailures:
    """Nodes that die and come back at random, both times exponential."""

    mtbf_s: float
    """Mean time between the return of a node and its next death."""
    mttr_s: float
    """Mean time from a death to the return."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A cluster."""

    one_machine: bool = False
    """Whether all processes and the load generator share the cores of one machine."""
    api: int = 1
    """API processes."""
    api_per_machine: int = 2
    model_servers: int = 1
    """Each on a machine of its own, unless there is one for all."""
    instances: int = 1
    """Of the model in each model server (``instance_group``)."""
    max_batch_size: int = 128
    stores: int = 1
    """Redis servers that hold the same."""
    cores: int | None = None
    """Of each machine; ``None``: as many as the profile's has."""
    network_s: float | None = None
    """One way between two machines; ``None``: as between processes of the profile's machine."""
    policy: Policy = "random"
    """Of the balancer before the API."""
    model_policy: Policy = "pinned"
    """Of the one before the model servers and stores: an API process keeps its connections."""
    detect_s: float = 1.0
    """Until a balancer no longer chooses a dead server."""
    return_s: float = 1.0
    """Until it chooses again one that is back."""
    retries: int = 1
    """Of a request whose connection was refused or lost."""
    timeout_s: float = 5.0
    """A caller waits no longer."""
    target_ms: float = 50.0
    """Of admission (``RECSYS_TARGET_MS``); 0: everybody is admitted."""
    budgets: PipelineConfig = field(default_factory=PipelineConfig)

    def __post_init__(self) -> None:
        """Raise InputError when it cannot be built."""
        for name in ("api", "api_per_machine", "model_servers", "instances", "stores"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option}: wanted at least 1, found {getattr(self, name)}")


def parse_failure(text: str) -> Failure:
    """Read ``AT:LASTS[:NODE][:silent]``, seconds; a node is ``api-1``, ``model-2`` or ``redis-1``.

    >>> parse_failure("30:10:api-2:silent")
    Failure(at_s=30.0, lasts_s=10.0, node='api-2', silently=True)

    Raises:
        InputError: when it is not of that form.
    """
    found = _FAILURE.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        at_s, lasts_s = float(found["at"]), float(found["lasts"])
    except ValueError as error:
        raise InputError(
            f"--fail-node: wanted AT:LASTS[:NODE][:silent] in seconds, like 30:10:model-1, found "
            f"{text!r}"
        ) from error
    return Failure(
        at_s=at_s, lasts_s=lasts_s, node=found["node"] or "model-1", silently=bool(found["s"])
    )
