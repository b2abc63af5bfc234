"""``/healthz``, ``/readyz`` and ``/metrics``: for supervisors and scrapers."""

from __future__ import annotations

import asyncio
from time import perf_counter

from msgspec import structs
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from recsys import __version__
from recsys.errors import RecsysError
from recsys.security.scopes import CALLER, Principal
from recsys.wire import Check, Health, Readiness
from serving.api.routes.json_response import json_response
from serving.api.services import Probe, Services
from serving.api.shared_metrics import metrics_text

_PROBE_TIMEOUT_S = 0.8
"""A part that does not answer by then is said not to. Kubernetes waits a second for a probe: a part
that hangs must not make us look dead."""


async def healthz(request: Request) -> Response:
    """Answer ``GET /healthz``: the process lives. Asks nobody else."""
    return json_response(Health(status="ok", version=__version__))


async def readyz(request: Request) -> Response:
    """Answer ``GET /readyz``: 200 when requests should come to this process, 503 otherwise.

    Only what is this process's own decides: whether it was told to stop, and whether it has a
    bundle to answer with. Redis, Kafka and Triton are everybody's: were one of them to decide, a
    load balancer would take all processes away at once, where each of them would have answered
    from a lower rung or taken the events into its spool. ``checks`` says how they are.

    Before the first ``recsys publish`` no bundle is live; that is ready too, for events.
    """
    services: Services = request.app.state.services
    if services.draining.is_draining:  # at once: who waits for a probe hears it too late
        live = services.bundles.current
        told = Check(ok=False, detail="told to stop; send no more", took_ms=0.0)
        return json_response(
            Readiness(
                ready=False,
                bundle=live.bundle.bundle_id if live is not None else None,
                checks={"draining": told},
            ),
            status_code=503,
        )
    checks = dict(
        zip(
            services.probes,
            await asyncio.gather(*(_check(probe) for probe in services.probes.values())),
            strict=True,
        )
    )
    checks["bundle"] = await _check(lambda: _bundle(services))
    live = services.bundles.current
    ready = services.bundles.can_answer
    checks["features"] = await _check(lambda: _features(services))
    if not _may_see_details(request):
        checks = {name: structs.replace(check, detail="") for name, check in checks.items()}
    return json_response(
        Readiness(
            ready=ready,
            bundle=live.bundle.bundle_id if live is not None else None,
            checks=checks,
        ),
        status_code=200 if ready else 503,
    )


def _may_see_details(request: Request) -> bool:
    """Addresses and errors of the servers behind are nobody's business but the operators'."""
    if CALLER not in request.scope:
        return True  # nobody is asked here
    caller: Principal | None = request.scope[CALLER]
    return caller is not None and "admin" in caller.scopes


async def metrics(request: Request) -> Response:
    """Answer ``GET /metrics`` in Prometheus' text format, for all workers of the machine."""
    return Response(metrics_text(), media_type=CONTENT_TYPE_LATEST)


async def _bundle(services: Services) -> str:
    live = services.bundles.current
    if services.bundles.trouble:
        raise RecsysError(services.bundles.trouble)
    if live is None:
        return "none live yet: run `recsys train`, then `recsys publish`; events are taken"
    if not await live.model.is_ready():
        raise RecsysError(
            f"bundle {live.bundle.bundle_id} is live but the model server does not serve it; "
            "it is loaded again as soon as the server answers"
        )
    return f"{live.bundle.bundle_id}, {live.bundle.vocabulary.num_items} items"


async def _features(services: Services) -> str:
    live = services.bundles.current
    if live is None:
        return "no bundle reads them yet"
    await live.check_features()
    if live.features_trouble:
        raise RecsysError(f"features are not read: {live.features_trouble}")
    return "of the layout the bundle reads, or none yet"


async def _check(probe: Probe) -> Check:
    start = perf_counter()
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            detail, ok = await probe(), True
    except TimeoutError:
        detail, ok = f"no answer within {_PROBE_TIMEOUT_S:g} s", False
    except (RecsysError, OSError) as error:
        detail, ok = str(error), False
    return Check(ok=ok, detail=detail, took_ms=round((perf_counter() - start) * 1e3, 3))
