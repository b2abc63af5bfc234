"""The servers of the plan one by one: how each is started, asked and made known."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from recsys.endpoints import BrokerProfile, Endpoints
from recsys.errors import ServerError
from recsys.events.kafka import ensure_topics
from recsys.events.topics import Topics
from recsys.features.worker_files import api_ready_file, exposures_ready_file, ready_file
from recsys.security.listening import require_callers_known
from recsys.security.tls import server_context
from recsys.settings import Settings
from serving.embedded.broker import broker_launch
from serving.embedded.folder import Report
from serving.embedded.launch import Launch
from serving.embedded.redis import redis_launch
from serving.embedded.triton import calls_url, metrics_url, triton_launch
from serving.supervisor import health


@dataclass(frozen=True, kw_only=True)
class Member:
    """One server of the plan: ours to run (``launch``) or the user's own."""

    name: str
    address: str
    """Fit for the screen: without password."""
    launch: Launch | None = None
    needs: tuple[str, ...] = ()
    """Servers that must be ready before this one is started."""
    publishes: dict[str, str] = field(default_factory=dict)
    """Fields of :class:`recsys.endpoints.Endpoints` that hold once it is ready."""


def _own(name: str, address: str, settings: Settings, variable: str) -> Member:
    lacks = health.missing(name, address, settings)
    shown = _without_password(address)
    if lacks is not None:
        raise ServerError(
            f"{variable} wanted a {name} server at {shown}, found: {lacks}; start it, correct "
            f"{variable}, or unset it to have one started here"
        )
    return Member(name=name, address=shown)


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    if "://" not in address or "@" not in parts.netloc:
        return address
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def redis_member(settings: Settings, _report: Report) -> Member:
    """The online store."""
    if settings.redis_url:
        return _own("redis", settings.redis_url, settings, "REDIS_URL")
    launch = redis_launch(settings)
    return Member(
        name="redis",
        address=launch.address,
        launch=launch,
        publishes={"redis_url": launch.address},
    )


def kafka_member(settings: Settings, report: Report) -> Member:
    """The event log; its topics are made once it answers."""
    if settings.kafka_bootstrap_servers:
        servers = settings.kafka_bootstrap_servers
        member = _own("kafka", servers, settings, "KAFKA_BOOTSTRAP_SERVERS")
        profile: BrokerProfile = "tansu" if settings.broker == "tansu" else "external"
        _create_topics(settings, servers, profile)
        return member
    launch, profile = broker_launch(settings, report)
    address = launch.address
    return Member(
        name="kafka",
        address=address,
        launch=dataclasses.replace(
            launch, after_ready=lambda: _create_topics(settings, address, profile)
        ),
        publishes={"kafka_bootstrap_servers": address, "broker_profile": profile},
    )


def _create_topics(settings: Settings, servers: str, profile: BrokerProfile) -> None:
    endpoints = Endpoints(kafka_bootstrap_servers=servers, broker_profile=profile)
    ensure_topics(settings, endpoints, Topics(namespace=settings.namespace).all())


def triton_member(settings: Settings, report: Report) -> Member:
    """The model server."""
    if settings.triton_grpc_url:
        return _own("triton", settings.triton_grpc_url, settings, "TRITON_GRPC_URL")
    launch = triton_launch(settings, report)
    return Member(
        name="triton",
        address=launch.address,
        launch=launch,
        publishes={
            "triton_grpc_url": calls_url(settings),
            "triton_metrics_url": metrics_url(settings),
        },
    )


def stream_member(settings: Settings, _report: Report, number: int = 0) -> Member:
    """Stream worker ``number``."""
    path = ready_file(settings, number)
    name = f"stream-{number}" if number else "stream"
    return Member(
        name=name,
        address="-",
        launch=Launch(
            name=name,
            version="stream worker",
            command=(sys.executable, "-m", "serving.stream_worker", "--number", str(number)),
            address="-",
            work_dir=Path.cwd(),
            environment=_python_environment(settings),
            missing=lambda: health.worker_missing(path),
            before_start=lambda: path.unlink(missing_ok=True),
            ready_timeout_s=90.0,  # it first reads what was logged while nobody listened
            stop_grace_s=15.0,
        ),
    )


def exposures_member(settings: Settings, _report: Report) -> Member:
    """What writes the logs to disk."""
    path = exposures_ready_file(settings)
    return Member(
        name="exposures",
        address="-",
        launch=Launch(
            name="exposures",
            version="exposure log",
            command=(sys.executable, "-m", "serving.exposure_worker"),
            address="-",
            work_dir=Path.cwd(),
            environment=_python_environment(settings),
            missing=lambda: health.worker_missing(path),
            before_start=lambda: path.unlink(missing_ok=True),
            ready_timeout_s=90.0,
            stop_grace_s=15.0,
        ),
    )


def api_workers(settings: Settings) -> list[Member]:
    """Give the API processes: they share a port, and a folder in which metrics add up."""
    first = api_member(settings)
    if settings.api_workers == 1:
        return [first]
    folder = settings.run_dir.absolute() / "api_metrics"
    is_fresh = False

    def make_fresh() -> None:
        """Empty the folder before the first start of any; a restart goes on counting."""
        nonlocal is_fresh
        if not is_fresh:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            is_fresh = True

    return [_api_worker(settings, first, number, folder, make_fresh)
            for number in range(settings.api_workers)]  # fmt: skip


def _api_worker(
    settings: Settings, first: Member, number: int, folder: Path, make_fresh: Callable[[], None]
) -> Member:
    assert first.launch is not None
    path = api_ready_file(settings, number)

    def before_start() -> None:
        make_fresh()
        path.unlink(missing_ok=True)

    name = f"api-{number}" if number else "api"
    launch = dataclasses.replace(
        first.launch,
        name=name,
        version=f"HTTP API, worker {number + 1} of {settings.api_workers}",
        command=(*first.launch.command, "--number", str(number)),
        environment={**first.launch.environment, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        # Any of them answers on the port: which one serves is in its file.
        missing=lambda: health.worker_missing(path) or health.api_missing(first.address, settings),
        before_start=before_start,
    )
    return dataclasses.replace(first, name=name, launch=launch)


def api_member(settings: Settings) -> Member:
    """The API, were it one process."""
    require_callers_known(settings)  # the API would say so too, three starts later
    host = settings.api_host_in_force
    scheme = "http" if server_context(settings) is None else "https"
    url = f"{scheme}://{host}:{settings.api_port}"
    ports = {settings.api_port: "RECSYS_API_PORT"}
    if settings.grpc_port:
        ports[settings.grpc_port] = "RECSYS_GRPC_PORT"
    return Member(
        name="api",
        address=url,
        launch=Launch(
            name="api",
            version="HTTP API",
            command=(sys.executable, "-m", "serving.api"),
            address=url,
            work_dir=Path.cwd(),
            environment=_python_environment(settings),
            host=host,
            ports=ports,
            missing=lambda: health.api_missing(url, settings),
            ready_timeout_s=90.0,
            stop_grace_s=15.0,
        ),
        publishes={"api_url": url},
    )


def _python_environment(settings: Settings) -> dict[str, str]:
    return {
        "RECSYS_STATE_DIR": str(settings.state_dir.absolute()),
        "RECSYS_DATA_DIR": str(settings.data_dir.absolute()),
        "PYTHONUNBUFFERED": "1",
    }
