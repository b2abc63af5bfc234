"""The metrics of a command that runs for long, for Prometheus to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client

from recsys.errors import ConfigurationError


@contextmanager
def metrics_page(port: int | None, host: str) -> Iterator[None]:
    """Answer with all metrics at ``/metrics`` of a port meanwhile; ``None``: do not.

    Raises:
        ConfigurationError: when the port is taken.
    """
    if port is None:
        yield
        return
    try:
        server, thread = prometheus_client.start_http_server(port, host)
    except OSError as error:
        raise ConfigurationError(f"wanted port {port} for /metrics, found: {error}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
