"""What a server needs of the machine, checked before it is started.

Each check raises one line: what was wanted, what was found, what to do.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

import psutil

from recsys.errors import ServerError

MEBIBYTE = 1 << 20


def require_free_port(host: str, port: int, server: str, variable: str) -> None:
    """Raise ServerError when something listens on ``port``, naming it where that is allowed."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do themselves: connections of a just stopped one are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise ServerError(
                f"{server} wanted port {port} on {host}, found it taken{_holder(port)} "
                f"({error.strerror}); stop that process or set {variable} to a free port"
            ) from error


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return ""
    return ""


def require_disk(folder: Path, wanted_bytes: int, purpose: str) -> None:
    """Raise ServerError when the disk of ``folder`` has less than ``wanted_bytes`` free."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < wanted_bytes:
        raise ServerError(
            f"{purpose} wants {wanted_bytes // MEBIBYTE} MiB free under {folder}, "
            f"found {free // MEBIBYTE} MiB; free some space or choose another folder "
            "(RECSYS_SERVERS_DIR for servers, RECSYS_STATE_DIR for data)"
        )


def require_glibc(wanted: tuple[int, int], server: str) -> None:
    """Raise ServerError unless this is x86-64 Linux with glibc of at least ``wanted``."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        name, version = "", ""
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    on_machine = sys.platform == "linux" and platform.machine() == "x86_64"
    if not on_machine or name != "glibc" or found < wanted:
        raise ServerError(
            f"{server} wants x86-64 Linux with glibc {wanted[0]}.{wanted[1]} or newer, found "
            f"{platform.machine()} {sys.platform} with {name or 'another C library'} {version}; "
            "set TRITON_GRPC_URL to a Triton elsewhere, or use Debian 12 / Ubuntu 22.04 or newer"
        )


def libpython_folder(server: str) -> Path:
    """Give the folder of this Python's shared library, which embedders of Python load."""
    library = sysconfig.get_config_var("INSTSONAME") or ""
    if ".so" not in library:  # a statically linked python whose library may be installed apart
        library = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    candidates = [
        sysconfig.get_config_var("LIBDIR"),
        f"{sys.base_prefix}/lib",
        f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}",
    ]
    for folder in candidates:
        if folder and (Path(folder) / library).is_file():
            return Path(folder)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    raise ServerError(
        f"{server}'s Python backend wants {library}, found a Python built without it "
        f"({sys.executable} of {sys.base_prefix}); on Debian or Ubuntu install "
        f"libpython{version}, with pyenv rebuild with --enable-shared, or set TRITON_GRPC_URL"
    )
