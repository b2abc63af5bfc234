"""Run with ``python -m serving.api``: the HTTP API on ``RECSYS_API_HOST:RECSYS_API_PORT``.

One process of ``RECSYS_API_WORKERS``, told apart by ``--number``; ``recsys up`` starts them all.

Reads its settings from the environment and the servers' addresses from the running ``recsys up``.
Stops cleanly on SIGTERM: running requests are answered, exposures are written.
"""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn

from recsys.endpoints import Endpoints, resolve
from recsys.errors import RecsysError
from recsys.features.worker_files import api_ready_file
from recsys.security.redaction import redact, redact_logs
from recsys.security.tls import server_context
from recsys.settings import Settings
from serving.api.app import ServeBeside, create_app
from serving.api.composition import make_gate, make_overload, open_services
from serving.api.draining import Draining, DrainingServer
from serving.api.early_refusal import refusing_protocol
from serving.api.listen import listen
from serving.api.services import Services
from serving.api.shared_metrics import forget_the_dead
from serving.worker_process import remove_own, write_ready

_DRAIN_S = 10
"""Running requests may take so long after SIGTERM."""
_BACKLOG = 2048
_KEEP_ALIVE_S = 75
"""Seconds that a connection may wait for its next request. Longer than load balancers (60 s) and
clients keep theirs: who closes first must be the one that sends, or a request may meet a closed
connection. uvicorn's own 5 s also dropped, unread, what had come while the process stood still."""
_SWITCH_S = 0.001
"""How long the event loop may have to wait for a thread that computes (exposures, Kafka's client);
Python's own 5 ms are a tenth of the time a request has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.api", description=__doc__)
    parser.add_argument("--number", type=int, default=0, help="which of several workers this is")
    number: int = parser.parse_args(argv).number
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    redact_logs()
    # Their INFO is a line per connection.
    for chatty in ("kafka", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    settings = Settings()
    try:
        endpoints = resolve(settings)
        for require in (
            endpoints.require_redis,
            endpoints.require_kafka,
            endpoints.require_triton,
        ):
            require()
        gate = make_gate(settings, endpoints)
        tls = server_context(settings)
        sockets = listen(settings)
        forget_the_dead()
    except RecsysError as error:
        sys.stderr.write(f"serving.api: {redact(str(error))}\n")
        return 2
    for stopping in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped; by then there is nothing to do.
        signal.signal(stopping, lambda *_: None)
    draining = Draining(settings.drain_s)
    sys.setswitchinterval(_SWITCH_S)
    overload = make_overload(settings)
    app = create_app(
        lambda: _open(settings, endpoints, draining, number),
        gate,
        overload,
        serve_beside=_grpc_twin(settings),
    )
    # What is here now stays: the collector need not walk it at every full pass.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=refusing_protocol(overload),
        ws="none",
        lifespan="on",
        access_log=False,
        proxy_headers=False,  # nothing here looks at the caller's address
        log_config=None,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        server_header=False,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        date_header=False,
    )
    # One server on all ports: they share the services, and stop together.
    DrainingServer(config, draining).run(sockets=sockets)
    return 0


@asynccontextmanager
async def _open(
    settings: Settings, endpoints: Endpoints, draining: Draining, number: int
) -> AsyncIterator[Services]:
    """Give the services, and say while they last that this worker serves."""
    ready = api_ready_file(settings, number)
    async with open_services(settings, endpoints, draining) as services:
        write_ready(ready)
        try:
            yield services
        finally:
            remove_own(ready)


def _grpc_twin(settings: Settings) -> ServeBeside | None:
    if not settings.grpc_port:
        return None
    from serving.api.grpc_server import serve_grpc  # only who speaks gRPC imports it

    return lambda app: serve_grpc(app, settings)


if __name__ == "__main__":
    sys.exit(main())
