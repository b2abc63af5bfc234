"""What load is aimed at: an address, and how requests are put to it."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlsplit

from benchmarks.loadtest.paced import Outlet
from benchmarks.loadtest.traffic import Traffic, Words
from recsys.errors import InputError
from recsys.security.tls import client_context

Stages = dict[str, list[float]]
"""Milliseconds by stage, one for each answer that said so."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a target answers; what each sender process is told."""

    scheme: Literal["http", "https", "grpc", "grpcs"]
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def tls(self) -> ssl.SSLContext | None:
        """Give what an ``https`` connection is checked with; ``None``: it is plain."""
        if self.scheme != "https":
            return None
        names = ("RECSYS_API_CAFILE", "RECSYS_API_CERTFILE")
        return client_context(*(os.environ.get(name) for name in names))


class Target(Words, Protocol):
    """A service, and how it is spoken to."""

    def outlet(self, traffic: Traffic, stages: Stages) -> Outlet:
        """Give what carries requests, tells ``traffic`` of answers and notes their stages."""


def parse_address(url: str) -> Address:
    """Read an address. Raises InputError saying what was wanted."""
    found = urlsplit(url)
    ports = {"http": 80, "https": 443, "grpc": 8090, "grpcs": 8090}
    try:
        port = found.port
    except ValueError:
        port = -1
    if found.scheme not in ports or not found.hostname or port == -1 or found.path not in ("", "/"):
        raise InputError(
            f"wanted http://HOST:PORT, https://, grpc:// or grpcs:// without a path, found {url!r}"
        )
    scheme: Literal["http", "https", "grpc", "grpcs"] = found.scheme  # type: ignore[assignment]
    return Address(scheme=scheme, host=found.hostname, port=port or ports[found.scheme])
