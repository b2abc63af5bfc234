"""Feast's feature server over HTTP, as its documentation says to run it, and a client that waits.

One worker answers one caller here: more of them (``--workers -1``) raise what many callers get, not
how soon one does. Workers are not restarted after 1,000 requests (``--max-requests 0``), which
would fall into the measurement; registry cached, no access log, the connection kept open.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recsys.errors import ServerError

_START_S = 90.0
SETTINGS = (
    "--workers", "1", "--max-requests", "0", "--registry_ttl_sec", "86400", "--no-access-log",
    "--keep-alive-timeout", "300",
)  # fmt: skip


class FeastClient:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)

    def get_online_features(
        self, features: Sequence[str], entities: Mapping[str, Sequence[Any]]
    ) -> dict[str, list[Any]]:
        """Give the values of each feature and key by name, as the SDK's ``to_dict`` does."""
        body = msgspec.json.encode({"features": features, "entities": entities})
        self._connection.request(
            "POST", "/get-online-features", body, {"Content-Type": "application/json"}
        )
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise ServerError(
                f"wanted features of Feast's server, found {response.status}: {answer[:200]!r}"
            )
        found = msgspec.json.decode(answer)
        names = found["metadata"]["feature_names"]
        return {n: r["values"] for n, r in zip(names, found["results"], strict=True)}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def feast_server(folder: Path, redis_url: str, port: int) -> Iterator[FeastClient]:
    """Serve the repository in ``folder``, whose registry is ``registry.db`` there."""
    host, _, database = redis_url.removeprefix("redis://").partition("/")
    (folder / "feature_store.yaml").write_text(
        "project: bench\nprovider: local\nregistry: registry.db\n"
        f'online_store:\n  type: redis\n  connection_string: "{host},db={database}"\n'
        "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
    )
    program = Path(sys.executable).with_name("feast")
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [str(program), "-c", str(folder), "serve", "--port", str(port), *SETTINGS],
            stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | {"FEAST_USAGE": "False"},
        )  # fmt: skip
    client = FeastClient(port)
    try:
        _wait(server, port, folder / "server.log")
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(20)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
            asked.request("GET", "/health")
            if asked.getresponse().status == 200:
                asked.close()
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise ServerError(
                f"wanted Feast's server within {_START_S:.0f} s, found: {log.read_text()[-500:]}"
            )
        time.sleep(0.2)
