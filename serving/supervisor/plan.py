"""What is to run: which servers, in which order, and what each one's being ready makes known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from recsys.errors import ConfigurationError
from recsys.security.listening import is_loopback
from recsys.settings import Settings
from serving.embedded.folder import Report
from serving.embedded.machine import require_free_port
from serving.supervisor.members import (
    Member,
    api_member,
    api_workers,
    exposures_member,
    kafka_member,
    redis_member,
    stream_member,
    triton_member,
)

SERVERS = ("redis", "kafka", "triton", "stream", "exposures", "api")
"""In order of starting; stopped in reverse."""
_NEEDS = {
    "stream": ("redis", "kafka"),
    "exposures": ("kafka",),
    "api": ("redis", "kafka", "triton"),
}


def make_plan(settings: Settings, only: Sequence[str], report: Report) -> list[Member]:
    """Give the servers to run, fetching programs that are missing.

    Raises:
        ServerError: a program cannot be had, the machine lacks something, or a server of the
            user's own does not answer.
        ConfigurationError: ``only`` names a server that does not exist or leaves out one that
            another needs.
    """
    names = _selected(settings, only)
    _refuse_open_servers(settings, names)
    makers: dict[str, Callable[[Settings, Report], Member]] = {
        "redis": redis_member,
        "kafka": kafka_member,
        "triton": triton_member,
        "stream": stream_member,
        "exposures": exposures_member,
        "api": lambda settings, _report: api_member(settings),
    }
    plan: list[Member] = []
    for name in names:
        needs = tuple(need for need in _NEEDS.get(name, ()) if need in names)
        members = [makers[name](settings, report)]
        if name == "stream":
            more = range(1, settings.stream_workers)
            members += [stream_member(settings, report, number) for number in more]
        if name == "api":
            members = api_workers(settings)
        plan += [dataclasses.replace(member, needs=needs) for member in members]
    return plan


def _refuse_open_servers(settings: Settings, names: Sequence[str]) -> None:
    """The embedded servers ask nobody for a password: other machines must not reach them."""
    own = {"redis": settings.redis_url, "kafka": settings.kafka_bootstrap_servers,
           "triton": settings.triton_grpc_url}  # fmt: skip
    embedded = [name for name in names if name in own and not own[name]]
    if embedded and not is_loopback(settings.host) and settings.auth != "off":
        raise ConfigurationError(
            f"RECSYS_HOST={settings.host} wanted to let other machines reach {', '.join(embedded)},"
            " which ask nobody for a password; set RECSYS_API_HOST instead to open the API alone, "
            "give servers of your own, or, on a network you trust, set RECSYS_AUTH=off"
        )


def check_ports(plan: Sequence[Member]) -> None:
    """Raise ServerError when a port of the plan is taken."""
    for member in plan:
        if member.launch is not None:
            for port, variable in member.launch.ports.items():
                require_free_port(member.launch.host, port, member.name, variable)


def _selected(settings: Settings, only: Sequence[str]) -> list[str]:
    unknown = sorted(set(only) - set(SERVERS))
    if unknown:
        raise ConfigurationError(
            f"--only wanted some of {', '.join(SERVERS)}, found {', '.join(unknown)}; "
            "separate names by commas"
        )
    names = [name for name in SERVERS if not only or name in only]
    own = {
        "redis": settings.redis_url,
        "kafka": settings.kafka_bootstrap_servers,
        "triton": settings.triton_grpc_url,
    }
    for name in names:
        for need in _NEEDS.get(name, ()):
            if need not in names and not own.get(need):
                raise ConfigurationError(
                    f"{name} wanted {need}, found it neither in --only nor in the environment; "
                    f"add {need} to --only"
                )
    return names
