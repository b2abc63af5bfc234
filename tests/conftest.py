"""Fixtures for real servers. Each is started once per session by the first test that asks for it,
shared by all xdist workers, and stopped at the end whatever happens.

===================== ========================================================================
``redis_url``         ``redis://…/N``; N is this worker's own database, so FLUSHDB is yours
                      (never FLUSHALL)
``kafka_bootstrap``   Apache Kafka; skips where Maven artefacts cannot be fetched
``tansu_bootstrap``   Tansu, the fallback broker
``broker``            ``(bootstrap, profile)``: Kafka, or Tansu where Kafka cannot be fetched
``triton``            :class:`tests.servers.TritonServer`: ``grpc_url``, ``calls_url``,
                      ``metrics_url``, ``model_repository`` (explicit control: load models by name)
``namespace``         a name no other test has: for topics, groups, Feast projects, key prefixes
``own_server``        ``own_server(launch)`` runs a server for this test alone, to be killed or
                      pointed at your own folders: ``own_server(triton_launch(settings, print))``
``own_settings``      Settings with free ports and a state folder of this test's own
===================== ========================================================================

Mark tests that use them ``@pytest.mark.servers``. Servers that a user's environment names are never
touched: those variables are removed for the session. A process left running at the end is killed,
named, and fails the session.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from recsys.endpoints import BrokerProfile
from recsys.errors import ServerError
from recsys.settings import Settings
from serving.embedded.kafka import kafka_launch
from serving.embedded.launch import Launch
from serving.embedded.redis import redis_launch
from serving.embedded.tansu import tansu_launch
from serving.embedded.triton import calls_url, metrics_url, triton_launch
from tests import servers

_FOREIGN = ("KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "TRITON_GRPC_URL", "RAY_ADDRESS")


def pytest_configure(config: pytest.Config) -> None:
    for variable in _FOREIGN:
        os.environ.pop(variable, None)
    # How slow a busy machine makes an example is no fault of what is tested.
    calm = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
    hypothesis.settings.register_profile("calm", **calm)
    hypothesis.settings.load_profile("calm")
    if not hasattr(config, "workerinput"):
        servers.begin_session()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workerinput"):
        return
    logs = session.config.rootpath / ".pytest_cache" / "servers" if exitstatus else None
    leaks = servers.end_session(logs)
    if leaks:
        sys.stderr.write("\nleft running by tests, now killed:\n  " + "\n  ".join(leaks) + "\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _quiet(_line: str) -> None:
    """Installing a server says what it does; a test run need not."""


@pytest.fixture(scope="session")
def redis_url(worker_id: str) -> str:
    settings = servers.shared_server("redis", redis_launch)
    database = 0 if worker_id == "master" else int(worker_id.removeprefix("gw"))
    return f"redis://{settings.host}:{settings.redis_port}/{database}"


@pytest.fixture(scope="session")
def kafka_bootstrap() -> str:
    try:
        settings = servers.shared_server("kafka", lambda settings: kafka_launch(settings, _quiet))
    except ServerError as error:
        if os.environ.get("RECSYS_BROKER") == "kafka":
            raise
        pytest.skip(f"no Apache Kafka here: {error}")
    return f"{settings.host}:{settings.kafka_port}"


@pytest.fixture(scope="session")
def tansu_bootstrap() -> str:
    settings = servers.shared_server("tansu", lambda settings: tansu_launch(settings, _quiet))
    return f"{settings.host}:{settings.kafka_port}"


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> tuple[str, BrokerProfile]:
    if os.environ.get("RECSYS_BROKER") != "tansu":
        try:
            return request.getfixturevalue("kafka_bootstrap"), "kafka"
        except pytest.skip.Exception:
            pass
    return request.getfixturevalue("tansu_bootstrap"), "tansu"


@pytest.fixture(scope="session")
def triton() -> servers.TritonServer:
    settings = servers.shared_server("triton", lambda settings: triton_launch(settings, _quiet))
    return servers.TritonServer(
        grpc_url=f"{settings.host}:{settings.triton_grpc_port}",
        calls_url=calls_url(settings),
        metrics_url=metrics_url(settings),
        model_repository=settings.model_repository,
    )


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def own_settings(tmp_path: Path, namespace: str) -> Settings:
    return servers.session_settings(
        "own", RECSYS_STATE_DIR=tmp_path / "var", RECSYS_NAMESPACE=namespace, RECSYS_PARTITIONS=2
    )


@pytest.fixture
def own_server() -> Iterator[Callable[[Launch], subprocess.Popen[bytes]]]:
    with contextlib.ExitStack() as stack:
        yield lambda launch: stack.enter_context(servers.own_server(launch))
