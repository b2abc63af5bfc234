"""The sockets the API listens on: its own, and one for the admin endpoints."""

from __future__ import annotations

import socket

from recsys.errors import ServerError
from recsys.security.listening import admin_port
from recsys.settings import Settings


def listen(settings: Settings) -> list[socket.socket]:
    """Give the bound sockets of one process; other workers of ours bind the same addresses.

    Each worker has a queue of connections of its own (``SO_REUSEPORT``), and the kernel chooses by
    the hash of the caller's address. So no worker takes more than its share while another sleeps,
    and one that is killed takes along its own connections alone.

    Raises:
        ServerError: when one cannot be had; none is left open then.
    """
    wanted = [(settings.api_host_in_force, settings.api_port, "RECSYS_API_HOST, RECSYS_API_PORT")]
    if (port := admin_port(settings)) is not None:
        wanted.append((settings.admin_host, port, "RECSYS_ADMIN_HOST, RECSYS_ADMIN_PORT"))
    sockets: list[socket.socket] = []
    try:
        for host, port, variables in wanted:
            sockets.append(_bound(host, port, variables, shared=settings.api_workers > 1))
    except ServerError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _bound(host: str, port: int, variables: str, *, shared: bool) -> socket.socket:
    bound = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        if bound is not None:
            bound.close()
        raise ServerError(
            f"wanted to listen on {host}:{port}, found: {error.strerror or error}; free it, or set "
            f"{variables}"
        ) from error
    bound.set_inheritable(False)
    return bound
