"""Addresses of the running servers: the environment first, then what ``recsys up`` wrote.

``recsys up`` writes ``<state_dir>/run/endpoints.json`` (temporary file, then rename) before it
starts a client of these servers, and removes it on ``recsys down``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from recsys.errors import ServerError
from recsys.settings import Settings

BrokerProfile = Literal["kafka", "tansu", "external"]


class Endpoints(BaseModel):
    """Where each server answers. ``None``: neither configured nor started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka_bootstrap_servers: str | None = None
    broker_profile: BrokerProfile = "external"
    """Which client settings fit: ``tansu`` needs the short list in ``events/kafka.py``."""
    redis_url: str | None = None
    triton_grpc_url: str | None = None
    triton_metrics_url: str | None = None
    api_url: str | None = None

    def require_kafka(self) -> str:
        """Give the bootstrap servers. Raises ServerError when there are none."""
        return _require(self.kafka_bootstrap_servers, "Kafka", "KAFKA_BOOTSTRAP_SERVERS")

    def require_redis(self) -> str:
        """Give the Redis address. Raises ServerError when there is none."""
        return _require(self.redis_url, "Redis", "REDIS_URL")

    def require_triton(self) -> str:
        """Give Triton's gRPC address. Raises ServerError when there is none."""
        return _require(self.triton_grpc_url, "Triton", "TRITON_GRPC_URL")


def _require(address: str | None, server: str, variable: str) -> str:
    if address is None:
        raise ServerError(
            f"no address for {server}: {variable} is not set and no `recsys up` is running here; "
            f"run `recsys up` or set {variable}"
        )
    return address


def endpoints_file(settings: Settings) -> Path:
    """Give the file ``recsys up`` writes."""
    return settings.run_dir / "endpoints.json"


def resolve(settings: Settings) -> Endpoints:
    """Give the addresses in force: the environment wins over the running ``recsys up``."""
    path = endpoints_file(settings)
    started = Endpoints.model_validate_json(path.read_text()) if path.is_file() else Endpoints()
    changes: dict[str, str] = {}
    if settings.kafka_bootstrap_servers:
        changes["kafka_bootstrap_servers"] = settings.kafka_bootstrap_servers
        changes["broker_profile"] = "tansu" if settings.broker == "tansu" else "external"
    if settings.redis_url:
        changes["redis_url"] = settings.redis_url
    if settings.triton_grpc_url:
        changes["triton_grpc_url"] = settings.triton_grpc_url
    return started.model_copy(update=changes)


def write(settings: Settings, endpoints: Endpoints) -> None:
    """Publish the addresses atomically."""
    path = endpoints_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(endpoints.model_dump(), indent=1))
    os.replace(temporary, path)  # noqa: PTH105  one atomic step
