"""The whole API over ASGI with in-memory parts: event log, features from it, model in-process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import torch
from starlette.types import ASGIApp

from recsys.bundle.served import ServedBundle
from recsys.clock import now_ms
from recsys.events.direct_writer import DirectWriter
from recsys.events.memory import MemoryEventLog
from recsys.events.topics import Topics
from recsys.feedback.exposure import Exposure, decode_exposure
from recsys.inference.live import LiveBundle
from recsys.inference.local import LocalModel
from recsys.inference.model import Model
from recsys.pipeline import Pipeline, PipelineConfig
from recsys.ranking.operator_rules import NO_RULES, OperatorRules
from recsys.retrieval.item_filter import ItemFilters
from recsys.settings import Settings
from serving.api.app import create_app
from serving.api.draining import Draining
from serving.api.event_publisher import EventPublisher
from serving.api.exposure_log import ExposureLog
from serving.api.gate import Gate
from serving.api.grpc_server import serve_grpc
from serving.api.overload import Overload
from serving.api.services import Probe, Services
from tests.inference.toy_bundle import BUNDLE_DIMENSIONS, UsersOfLog, toy_bundle
from tests.inference.toy_model import ToyModel
from tests.serving.api.asgi_client import AsgiClient


@dataclass
class OneBundle:
    """See ``HoldsLiveBundle``."""

    current: LiveBundle | None
    trouble: str = ""
    beside: dict[str, LiveBundle] = field(default_factory=dict)

    @property
    def can_answer(self) -> bool:
        """See ``HoldsLiveBundle.can_answer``."""
        return self.current is not None or not self.trouble

    def serving(self, bundle_id: str) -> LiveBundle | None:
        """See ``HoldsLiveBundle.serving``."""
        if self.current is not None and self.current.bundle.bundle_id == bundle_id:
            return self.current
        return self.beside.get(bundle_id)


@dataclass
class MemoryApi:
    """A running app and the parts behind it."""

    app: ASGIApp
    client: AsgiClient
    log: MemoryEventLog
    topics: Topics
    users: UsersOfLog
    bundles: OneBundle
    exposure_log: ExposureLog
    grpc_ports: list[int]
    """Where the gRPC twin listens, when it was asked for."""

    def exposures(self) -> list[Exposure]:
        """Stop the exposure log and give all it has written."""
        self.exposure_log.stop()
        reader = self.log.reader(topics=[self.topics.exposures], group="test")
        records = reader.poll(timeout_ms=0, max_records=10_000)
        return sorted((decode_exposure(r.value) for r in records), key=lambda e: e.now_ms)


@contextmanager
def memory_api(
    *,
    bundle: ServedBundle | None = None,
    model: Model | None = None,
    live: bool = True,
    beside: ServedBundle | None = None,
    operator: Callable[[], OperatorRules] = lambda: NO_RULES,
    gate: Gate | None = None,
    config: PipelineConfig | None = None,
    static: ServedBundle | None = None,
    overload: Overload | None = None,
    draining: Draining | None = None,
    probes: Mapping[str, Probe] | None = None,
    grpc: Settings | None = None,
) -> Iterator[MemoryApi]:
    """Run the app. ``live=False``: nothing is published yet."""
    bundle = bundle or toy_bundle()
    topics = Topics(namespace="test")
    log = MemoryEventLog()
    log.ensure_topics(topics.all())
    users = UsersOfLog(log, topics)
    num_items = bundle.vocabulary.num_items
    item_filters = ItemFilters(bundle.tags, num_items=num_items, device=torch.device("cpu"))
    toy = ToyModel(num_items, dimensions=BUNDLE_DIMENSIONS, item_filters=item_filters)
    served = LiveBundle(bundle, model or LocalModel(toy), users, clock=now_ms, namespace="test")
    bundles = OneBundle(served if live else None)
    if beside is not None:
        bundles.beside[beside.bundle_id] = LiveBundle(
            beside, LocalModel(toy), users, clock=now_ms, namespace="test"
        )
    events = EventPublisher(DirectWriter(log.writer))
    exposures = ExposureLog(DirectWriter(log.writer), topic=topics.exposures)

    @asynccontextmanager
    async def open_services() -> AsyncIterator[Services]:
        events.start()
        exposures.start()
        yield Services(
            bundles=bundles,
            pipeline=Pipeline(config or PipelineConfig(), operator=operator),
            events=events,
            exposures=exposures,
            topics=topics,
            static=static,
            draining=draining or Draining(),
            probes=probes or {},
        )
        events.stop()
        exposures.stop()

    grpc_ports: list[int] = []

    @asynccontextmanager
    async def serve_beside(app: ASGIApp) -> AsyncIterator[None]:
        if grpc is None:
            yield
            return
        async with serve_grpc(app, grpc) as port:
            grpc_ports.append(port)
            yield

    app = create_app(open_services, gate, overload, serve_beside=serve_beside)
    with AsgiClient(app) as client:
        yield MemoryApi(
            app=app,
            client=client,
            log=log,
            topics=topics,
            users=users,
            bundles=bundles,
            exposure_log=exposures,
            grpc_ports=grpc_ports,
        )
