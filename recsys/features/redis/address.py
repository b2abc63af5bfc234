"""What a ``REDIS_URL`` says: which servers, how to log in, and where reads may go.

============================================== ====================================================
``redis://user:password@host:6379/0``          one server; the user is an ACL user
``rediss://…?ssl_ca_certs=ca.pem``             the same over TLS
``redis+cluster://host:6379,host2:6379``       Redis Cluster; some of its nodes
``rediss+cluster://…``                         the same over TLS
``unix:///run/redis.sock?db=1``                a socket of this machine
============================================== ====================================================

Options after ``?``: ``db``; ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile`` (paths of PEM
files), ``ssl_cert_reqs`` (``required`` or ``none``), ``ssl_check_hostname`` (``true``, ``false``);
``replica=host:port`` (may be repeated) or, in a cluster, ``read_from=replica``: reads then go to
replicas, which are behind their primary by the replication lag; writes never do.
"""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from recsys.errors import ConfigurationError

_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")
_TLS_OPTIONS = (
    "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname",
)  # fmt: skip
_OPTIONS = ("db", "replica", "read_from", *_TLS_OPTIONS)


class Node(NamedTuple):
    """One server."""

    host: str
    """Name or number; of a Unix socket the path."""
    port: int
    """0 for a Unix socket."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a server proves who it is, and we to it."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    verify: bool = True
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """Give what a socket is wrapped with.

        Raises:
            ConfigurationError: when a file is missing or is no certificate.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_certs)
            context.check_hostname = self.verify and self.check_hostname
            if not self.verify:
                context.verify_mode = ssl.CERT_NONE
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"wanted PEM files for the TLS of Redis (ssl_ca_certs={self.ca_certs}, "
                f"ssl_certfile={self.certfile}, ssl_keyfile={self.keyfile}), found: {error}"
            ) from error
        return context


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the online store is."""

    nodes: tuple[Node, ...]
    """The server; of a cluster some of its nodes."""
    is_cluster: bool = False
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: Tls | None = None
    replicas: tuple[Node, ...] = ()
    """Of one server: where reads go instead."""
    reads_replicas: bool = False
    """Whether reads may be answered by replicas, and so be a little old."""

    def __str__(self) -> str:
        """Give the address fit for a message: without the password."""
        places = ",".join(map(str, self.nodes))
        return places if self.is_cluster else f"{places}/{self.database}"

    def client_options(self) -> dict[str, Any]:
        """Give the keyword arguments of redis-py's clients, host and port left out."""
        options: dict[str, Any] = {"username": self.username, "password": self.password}
        if not self.is_cluster:
            options["db"] = self.database
        if self.tls is not None:
            options |= {
                "ssl": True,
                "ssl_ca_certs": self.tls.ca_certs,
                "ssl_certfile": self.tls.certfile,
                "ssl_keyfile": self.tls.keyfile,
                "ssl_cert_reqs": "required" if self.tls.verify else "none",
                "ssl_check_hostname": self.tls.verify and self.tls.check_hostname,
            }
        return options


@functools.cache
def parse(url: str) -> Address:
    """Read a Redis URL.

    Raises:
        ConfigurationError: when it is none; the message shows no password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ConfigurationError(
            f"REDIS_URL: wanted a URL of {', '.join(f'{s}://' for s in _SCHEMES)}; "
            f'found "{scheme.rpartition("@")[2]}"'
        )
    rest, _, query = rest.partition("?")
    options: dict[str, str] = {}
    replicas: list[Node] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ConfigurationError(
                f'REDIS_URL: wanted options among {", ".join(_OPTIONS)}; found "{name}"'
            )
        if name == "replica":
            replicas.append(_node(value))
        else:
            options[name] = value
    credentials, _, place = rest.rpartition("@")
    username, _, password = credentials.partition(":")
    is_cluster = scheme.endswith("+cluster")
    nodes: tuple[Node, ...]
    if scheme == "unix":
        nodes, path = (Node(unquote(place), 0),), ""
    else:
        hosts, _, path = place.partition("/")
        nodes = tuple(_node(host) for host in hosts.split(","))
    database = _database(path.strip("/") or options.get("db", "0"), is_cluster)
    read_from = options.get("read_from", "replica" if replicas else "primary")
    if read_from not in ("primary", "replica"):
        raise ConfigurationError(
            f'REDIS_URL: wanted read_from=primary or read_from=replica, found "{read_from}"'
        )
    if read_from == "replica" and not is_cluster and not replicas:
        raise ConfigurationError(
            "REDIS_URL: read_from=replica wants the replicas of one server by name: "
            "add replica=host:port for each (a cluster says itself where they are)"
        )
    if len(nodes) > 1 and not is_cluster:
        raise ConfigurationError(
            f"REDIS_URL: wanted one server, found {len(nodes)}; of a cluster say redis+cluster://"
        )
    return Address(
        nodes=nodes,
        is_cluster=is_cluster,
        username=unquote(username) or None,
        password=unquote(password) or None,
        database=database,
        tls=_tls(options) if scheme.startswith("rediss") else None,
        replicas=tuple(replicas),
        reads_replicas=read_from == "replica",
    )


def _tls(options: dict[str, str]) -> Tls:
    return Tls(
        ca_certs=options.get("ssl_ca_certs") or None,
        certfile=options.get("ssl_certfile") or None,
        keyfile=options.get("ssl_keyfile") or None,
        verify=options.get("ssl_cert_reqs", "required") != "none",
        check_hostname=options.get("ssl_check_hostname", "true").lower()
        not in ("false", "0", "no"),
    )


def _node(text: str) -> Node:
    host, port = text, "6379"
    if not text.endswith("]") and ":" in text:  # [::1] has colons of its own
        host, _, port = text.rpartition(":")
    try:
        number = int(port)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise ConfigurationError(f'REDIS_URL: wanted host:port, found port "{port}"')
    return Node(host.strip("[]") or "localhost", number)


def _database(text: str, is_cluster: bool) -> int:
    if not text.isdigit():
        raise ConfigurationError(f'REDIS_URL: wanted the number of a database, found "{text}"')
    if is_cluster and int(text):
        raise ConfigurationError(f"REDIS_URL: a cluster has database 0 alone, found {text}")
    return int(text)
