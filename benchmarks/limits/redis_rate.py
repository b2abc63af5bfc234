"""Requests and bytes a second that Redis gives to one connection.

By ``redis-benchmark`` (or ``valkey-benchmark``) where there is one: the embedded server's package
brings none. Always by a raw pipelined socket loop as well: it sends prepared bytes and counts the
bytes that come back, whose number is known, without taking them apart.
"""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.features.online_repo import redis_server

_SMALL, _LARGE = 100, 65_536
"""Bytes of a value."""
_NUM_REQUESTS = 100_000


def redis_limits(seconds: float) -> dict[str, Any]:
    """Measure on a server of its own."""
    with redis_server() as url:
        address = urlsplit(url)
        assert address.hostname is not None and address.port is not None
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found: dict[str, Any] = {"raw pipelined socket loop": _raw(connection, seconds)}
        program = next(
            filter(None, (shutil.which(name) for name in ("valkey-benchmark", "redis-benchmark"))),
            None,
        )
        if program is None:
            found["redis-benchmark"] = {"not_run": "no redis-benchmark or valkey-benchmark on PATH"}
        else:
            try:
                found["redis-benchmark"] = _by_program(program, address.port)
            except (OSError, subprocess.CalledProcessError, KeyError) as error:
                why = f"{Path(program).name} did not work ({type(error).__name__})"
                found["redis-benchmark"] = {"not_run": why}
    return found


def _raw(connection: socket.socket, seconds: float) -> dict[str, float]:
    found = {}
    for name, size in (("small", _SMALL), ("large", _LARGE)):
        _exchange(connection, _command(b"SET", name.encode(), b"x" * size), len(b"+OK\r\n"))
    for said, command, answer, at_once in (
        ("PING, one at a time", _command(b"PING"), len(b"+PONG\r\n"), 1),
        ("PING, 501 at once", _command(b"PING"), len(b"+PONG\r\n"), 501),
        (f"GET of {_SMALL} bytes, one at a time", _command(b"GET", b"small"), _bulk(_SMALL), 1),
        (f"GET of {_SMALL} bytes, 501 at once", _command(b"GET", b"small"), _bulk(_SMALL), 501),
        (f"GET of {_LARGE} bytes, 64 at once", _command(b"GET", b"large"), _bulk(_LARGE), 64),
    ):
        done, start = 0, time.perf_counter()
        while (took_s := time.perf_counter() - start) < seconds:
            _exchange(connection, command * at_once, answer * at_once)
            done += at_once
        found[f"{said}: requests/s"] = round(done / took_s)
        if command != _command(b"PING"):
            found[f"{said}: MB/s"] = round(done * answer / took_s / 1e6, 1)
    return found


def _exchange(connection: socket.socket, commands: bytes, expected: int) -> None:
    connection.sendall(commands)
    buffer = bytearray(1 << 20)
    while expected > 0:
        got = connection.recv_into(buffer)
        if not got:
            raise ConnectionError("wanted an answer of Redis, found a closed connection")
        expected -= got


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def _bulk(size: int) -> int:
    return len(b"$%d\r\n" % size) + size + len(b"\r\n")


def _by_program(program: str, port: int) -> dict[str, float]:
    found = {}
    for pipelined in (1, 64):
        done = subprocess.run(
            [program, "-p", str(port), "-t", "get", "-d", str(_SMALL), "-c", "1",
             "-P", str(pipelined), "-n", str(_NUM_REQUESTS), "--csv"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        rows = {row["test"]: row for row in csv.DictReader(done.stdout.splitlines())}
        rate = float(rows["GET"]["rps"])
        found[f"GET of {_SMALL} bytes, {pipelined} at once: requests/s"] = round(rate)
    return found
