"""Asks every server now, whatever the supervisor's file says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from recsys.endpoints import resolve
from recsys.settings import Settings
from serving.supervisor import health
from serving.supervisor.state import ServerState, SupervisorState


def look(settings: Settings, state: SupervisorState) -> dict[str, str]:
    """Give for each server what it lacks to be ready; an empty text when nothing."""
    endpoints = resolve(settings)
    addresses = {
        "redis": endpoints.redis_url,
        "kafka": endpoints.kafka_bootstrap_servers,
        "triton": endpoints.triton_grpc_url,
    }

    def ask(server: ServerState) -> str:
        if server.phase != "ready":
            return server.problem or server.phase
        address = addresses.get(server.name) or server.address
        return health.missing(server.name, address, settings, endpoints.broker_profile) or ""

    with ThreadPoolExecutor(len(state.servers) or 1) as pool:
        found = pool.map(ask, state.servers)
    return {server.name: problem for server, problem in zip(state.servers, found, strict=True)}
