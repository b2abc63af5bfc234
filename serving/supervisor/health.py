"""One question to each server, in its own protocol: does it answer?"""

from __future__ import annotations

import contextlib
import http.client
import json
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from recsys.endpoints import BrokerProfile
from recsys.errors import ConfigurationError
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import pack
from recsys.features.redis.replies import ErrorReply
from recsys.features.worker_files import api_ready_file, exposures_ready_file, ready_file
from recsys.security.tls import own_question_context
from recsys.settings import Settings
from serving.embedded.launch import Missing
from serving.embedded.readiness import broker_missing
from serving.embedded.redis import ping
from serving.embedded.triton import server_missing

_TIMEOUT_S = 2.0
_REDIS_PORT = 6379


def missing(
    server: str, address: str, settings: Settings, profile: BrokerProfile = "external"
) -> Missing | None:
    """Ask the server at ``address``: ``None`` when it is ready, else what it lacks."""
    try:
        if server == "redis":
            return _redis_missing(address)
        if server == "kafka":
            return broker_missing(address, profile, settings)
        if server == "triton":
            return server_missing(address)
        if server == "api":
            return api_missing(address, settings)
        if server.startswith("api-"):
            number = int(server.removeprefix("api-"))
            return worker_missing(api_ready_file(settings, number))
        if server == "exposures":
            return worker_missing(exposures_ready_file(settings))
        return worker_missing(ready_file(settings, worker_number(server)))
    except OSError as error:
        return error.strerror or str(error)


def worker_number(server: str) -> int:
    """Give N of the stream worker called ``stream-N``; the first is called ``stream``."""
    return int(server.removeprefix("stream").lstrip("-") or 0)


def worker_missing(path: Path) -> Missing | None:
    """Ask whether the worker that wrote ``path`` lives."""
    try:
        pid = json.loads(path.read_text())["pid"]
    except FileNotFoundError:
        return "it has not begun to consume"
    except (ValueError, KeyError, TypeError):
        return f"{path} is not what a worker writes"
    return None if psutil.pid_exists(pid) else f"its process {pid} is gone"


def api_missing(url: str, settings: Settings) -> Missing | None:
    """GET ``/readyz``: ``None`` on 200. Raises OSError when nobody answers."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = http.client.HTTPConnection(host, parts.port, timeout=_TIMEOUT_S)
    if parts.scheme == "https":
        context = own_question_context(settings)
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=_TIMEOUT_S, context=context
        )
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(500).decode(errors="replace")
    except http.client.HTTPException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return None if response.status == http.client.OK else f"{response.status}: {body}"


def _redis_missing(url: str) -> Missing | None:
    parts = urlsplit(url)
    if parts.scheme == "redis" and not (parts.username or parts.password or parts.query):
        return ping(parts.hostname or "", parts.port or _REDIS_PORT)
    try:
        client = RedisClient(url, timeout_s=_TIMEOUT_S)
        with contextlib.closing(client):
            (answer,) = client.call([b""], [pack(b"PING")])
    except ConfigurationError as error:  # of which a ServerError is one
        return str(error)
    return str(answer) if isinstance(answer, ErrorReply) else None
