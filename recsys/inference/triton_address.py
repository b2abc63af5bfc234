"""What a ``TRITON_GRPC_URL`` says: where the model server is, and how to know that it is it.

========================================================== ========================================
``host:8001`` or ``grpc://host:8001``                      without TLS
``grpc://host:8001?http_port=8000``                        models are called over HTTP, for less
``grpcs://host:8001?ssl_ca_certs=ca.pem``                  over TLS, 1.2 at least
``…&ssl_certfile=us.pem&ssl_keyfile=us.key``               and with a certificate of ours
``…&ssl_server_name=triton.internal``                      whose certificate names another host
========================================================== ========================================

The options of TLS are named as those of ``REDIS_URL``. Over HTTP go calls of models alone, on a
port of the same host (``triton_http.py``); all else, and calls where none is given, is gRPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import grpc

from recsys.errors import ConfigurationError

_OPTIONS = {
    "grpc": ("http_port",),
    "grpcs": ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_server_name"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonAddress:
    """Where the model server is."""

    target: str
    """``host:port``."""
    tls: bool = False
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_name: str | None = None
    http_port: int | None = None
    """Where models are called over HTTP; ``None``: over gRPC."""

    @property
    def host(self) -> str:
        """The host of ``target``, without brackets."""
        return self.target.rpartition(":")[0].strip("[]")

    def credentials(self) -> grpc.ChannelCredentials:
        """Give what a channel over TLS proves itself with.

        Raises:
            ConfigurationError: when a file cannot be read.
        """
        certificates = _read(self.ca_certs, "ssl_ca_certs")
        chain = _read(self.certfile, "ssl_certfile")
        key = _read(self.keyfile or self.certfile, "ssl_keyfile")
        return grpc.ssl_channel_credentials(certificates, key, chain)

    def options(self) -> tuple[tuple[str, str], ...]:
        """Give the options of a channel."""
        if self.server_name is None:
            return ()
        return (("grpc.ssl_target_name_override", self.server_name),)


def parse(url: str) -> TritonAddress:
    """Read an address.

    Raises:
        ConfigurationError: when it is none.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return TritonAddress(target=url)
    if scheme not in _OPTIONS:
        raise ConfigurationError(
            f"TRITON_GRPC_URL: wanted host:port, grpc:// or grpcs:// (TLS), found {scheme}://"
        )
    target, _, query = rest.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(given) - set(_OPTIONS[scheme])):
        raise ConfigurationError(
            f"TRITON_GRPC_URL: wanted options of {scheme}:// among {', '.join(_OPTIONS[scheme])}; "
            f"found {', '.join(unknown)}"
        )
    if given.get("ssl_keyfile") and not given.get("ssl_certfile"):
        raise ConfigurationError("TRITON_GRPC_URL: wanted ssl_certfile beside ssl_keyfile")
    http_port = given.get("http_port", "")
    if "http_port" in given and not (http_port.isascii() and http_port.isdigit()):
        raise ConfigurationError(
            f"TRITON_GRPC_URL: wanted a number as http_port, found {http_port!r}"
        )
    return TritonAddress(
        target=target.rstrip("/"),
        tls=scheme == "grpcs",
        ca_certs=given.get("ssl_ca_certs") or None,
        certfile=given.get("ssl_certfile") or None,
        keyfile=given.get("ssl_keyfile") or None,
        server_name=given.get("ssl_server_name") or None,
        http_port=int(http_port) if http_port else None,
    )


def open_channel(url: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
    """Give a channel of the running event loop. Raises ConfigurationError."""
    address = parse(url)
    if not address.tls:
        return grpc.aio.insecure_channel(address.target, options=list(options))
    return grpc.aio.secure_channel(
        address.target, address.credentials(), options=[*options, *address.options()]
    )


def open_blocking_channel(url: str) -> grpc.Channel:
    """Give a channel of no event loop. Raises ConfigurationError."""
    address = parse(url)
    if not address.tls:
        return grpc.insecure_channel(address.target)
    return grpc.secure_channel(address.target, address.credentials(), list(address.options()))


def _read(path: str | None, option: str) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"TRITON_GRPC_URL: wanted a PEM file at {option}={path}, found: {error.strerror}"
        ) from error
