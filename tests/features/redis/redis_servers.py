"""Redis servers of one test's own: a cluster, a replica, one behind TLS, one with an ACL user."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import redis

from serving.embedded.launch import Launch
from serving.embedded.redis import redis_launch
from tests.servers import free_ports, session_settings

Starter = Callable[[Launch], subprocess.Popen[bytes]]


def launch_of(folder: Path, *options: str) -> Launch:
    """Give a server on a free port with more options; ``launch.address`` is its URL."""
    settings = session_settings("own", RECSYS_STATE_DIR=folder)
    launch = redis_launch(settings)
    return replace(launch, command=(*launch.command, "--repl-diskless-sync-delay", "0", *options))


def port_of(launch: Launch) -> int:
    (port,) = launch.ports
    return port


def server_pid(keeper: subprocess.Popen[bytes]) -> int:
    """Give the process of the server itself, to be stopped or killed."""
    listed = subprocess.run(
        ["pgrep", "-P", str(keeper.pid)], capture_output=True, text=True, check=True
    )
    return int(listed.stdout.split()[0])


def _start_node(start: Starter, folder: Path) -> tuple[Launch, int]:
    """Start a node; gives it and the port it speaks to the others on."""
    for attempt in range(3):
        bus = free_ports(1)
        launch = launch_of(
            folder / str(attempt), "--cluster-port", str(bus),
            "--cluster-enabled", "yes", "--cluster-node-timeout", "1500",
            "--cluster-require-full-coverage", "no",
        )  # fmt: skip
        with contextlib.suppress(RuntimeError):  # another test was given the port, too
            start(launch)
            return launch, bus
    raise RuntimeError(f"no node of a cluster starts in {folder}")


def start_cluster(start: Starter, folder: Path, *, replicas: int = 0) -> list[Launch]:
    """Start three nodes that share the slots, and ``replicas`` of the first; wait for them."""
    nodes = [_start_node(start, folder / f"node{n}") for n in range(3 + replicas)]
    launches, buses = [launch for launch, _ in nodes], [bus for _, bus in nodes]
    clients = [redis.Redis(port=port_of(launch)) for launch in launches]
    bounds = [0, 5461, 10923, 16384]
    for n in range(3):
        clients[n].execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
        clients[n].execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
    for launch, bus in zip(launches[1:], buses[1:], strict=True):
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port_of(launch), bus)
    first = clients[0].execute_command("CLUSTER", "MYID").decode()

    def settled() -> bool:
        told = [client.execute_command("CLUSTER", "INFO") for client in clients]
        known = b"cluster_known_nodes:%d\r" % len(clients)
        return all(b"cluster_state:ok" in info and known in info for info in told)

    wait_until(settled)
    for client in clients[3:]:
        client.execute_command("CLUSTER", "REPLICATE", first)
        wait_until(lambda c=client: c.info("replication").get("master_link_status") == "up")
    if replicas:

        def told_of_it() -> bool:
            told = [client.execute_command("CLUSTER", "SLOTS") for client in clients[:3]]
            return all(sum(len(entry) - 3 for entry in slots) == replicas for slots in told)

        wait_until(told_of_it)
    for client in clients:
        client.close()
    return launches


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.05)


def make_authority(folder: Path) -> tuple[Path, Path, Path]:
    """Make a certificate authority and a certificate of 127.0.0.1: ``(ca, certificate, key)``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = ("ca.pem", "ca.key", "server.csr", "server.pem", "server.key", "names")
    ca, ca_key, request, certificate, key, names = (folder / name for name in files)
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *ec, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=test CA"],
        ["req", *ec, "-keyout", key, "-out", request, "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
         "-out", certificate, "-days", "2", "-extfile", names],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return ca, certificate, key


@contextlib.contextmanager
def tls_in_front(port: int, certificate: Path, key: Path, ca: Path) -> Iterator[int]:
    """Terminate TLS before a server; clients must show a certificate of ``ca``. Gives the port.

    (The Valkey in the wheel is built without TLS of its own.)
    """
    program = Path(__file__).with_name("tls_proxy.py")
    with subprocess.Popen(
        [sys.executable, "-P", program, str(port), certificate, key, ca], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def urls(launches: Sequence[Launch], query: str = "") -> str:
    places = ",".join(f"127.0.0.1:{port_of(launch)}" for launch in launches)
    return f"redis+cluster://{places}{query}"
