"""The sockets the API listens on: its own, and one for the admin endpoints."""

from __future__ import annotations

import socket

from recsys.errors import ServerError
from recsys.security.listening import admin_port
from recsys.settings import Settings


def listen(settings: Settings) -> list[socket.socket]:
    """Give the bound sockets of one process.

    Raises:
        ServerError: when one cannot be had; none is left open then.
    """
    wanted = [(settings.api_host_in_force, settings.api_port, "RECSYS_API_HOST, RECSYS_API_PORT")]
    if (port := admin_port(settings)) is not None:
        wanted.append((settings.admin_host, port, "RECSYS_ADMIN_HOST, RECSYS_ADMIN_PORT"))
    sockets: list[socket.socket] = []
    try:
        for host, port, variables in wanted:
            sockets.append(_bound(host, port, variables))
    except ServerError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _bound(host: str, port: int, variables: str) -> socket.socket:
    bound = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
