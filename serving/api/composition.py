"""The composition root: from settings to the services of a running API.

Nothing here waits for another server. The API answers ``/healthz`` at once, takes up the live
bundle when it can, and connects to the event log in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module

from recsys.bundle.announced import Announcements
from recsys.bundle.live_items import LiveItems
from recsys.bundle.live_pointer import LIVE_FILE
from recsys.bundle.served import ServedBundle, load_served_bundle
from recsys.bundle.static_list import read_static_list, write_static_list
from recsys.bundle.store import BESIDE_FILE, BundleStore
from recsys.clock import now_ms
from recsys.endpoints import Endpoints
from recsys.errors import BundleError, ConfigurationError, RecsysError
from recsys.events.item_follower import ItemFollower
from recsys.events.log import EventReader, EventWriter
from recsys.events.topics import Topics
from recsys.features.online import AsyncOnlineReader
from recsys.features.plan import PLAN_FILE
from recsys.features.plan import load as load_plan
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis_hashes import AsyncRedisHashes
from recsys.inference.live import STORE_BREAKER, LiveBundle
from recsys.inference.triton import TritonModel, TritonServer, model_name
from recsys.pipeline import Pipeline, PipelineConfig
from recsys.ranking.operator_file import OperatorFile
from recsys.resilience.admission import Admission, AdmissionConfig
from recsys.resilience.breaker import CircuitBreaker
from recsys.resilience.hedge import Hedge
from recsys.security.authenticator import Authenticator, KeyRing, TokenVerifier
from recsys.security.listening import admin_port, key_file, require_callers_known
from recsys.security.rate_limit import RateConfig, RateLimiter
from recsys.settings import Settings
from serving.api.draining import Draining
from serving.api.event_publisher import EventPublisher
from serving.api.exposure_log import ExposureLog
from serving.api.gate import Gate
from serving.api.item_age import ItemAge
from serving.api.live_bundles import LiveBundles
from serving.api.overload import Overload
from serving.api.probes import ask_kafka, ask_redis, ask_triton
from serving.api.services import Services
from serving.api.spools import open_spools

logger = logging.getLogger(__name__)

_CONNECT_S = 5.0
"""For one try to connect to Kafka; there is a next one."""
_COUNTING_CONNECTIONS = 8
"""To one node of Redis, for counting requests: one command at a time for each caller."""


@asynccontextmanager
async def open_services(
    settings: Settings, endpoints: Endpoints, draining: Draining | None = None
) -> AsyncIterator[Services]:
    """Give the services of one process for as long as it runs.

    ``draining`` says when it is about to stop; ``None``: nobody asks.

    Raises:
        ServerError: when there is no address for Redis, Kafka or Triton.
    """
    redis_url = endpoints.require_redis()
    endpoints.require_kafka()
    triton = TritonServer(endpoints.require_triton())
    store = BundleStore(settings.bundle_dir)
    topics = Topics(namespace=settings.namespace)
    # One set of connections for all bundles: they come and go.
    hashes = AsyncRedisHashes(redis_url, from_replicas=True)
    announcements = Announcements(hashes.client, settings.namespace)

    follower = ItemFollower(lambda: _connect_items(settings, endpoints, topics))
    bundles = _live_bundles(settings, store, triton, hashes, follower, announcements)
    connect = partial(_connect, settings, endpoints, topics)
    spools = open_spools(settings, connect)
    events = EventPublisher(spools.events)
    exposures = ExposureLog(spools.exposures, topic=topics.exposures)
    events.start()
    exposures.start()
    static = _static_list(settings)
    if static is not None:  # what it holds may have been withdrawn while nobody ran
        static_items = LiveItems(static)
        follower.add(static_items, static.log_positions)
    follower.start()
    # Reading a bundle needs it; imported beside the first requests rather than before them.
    reading = asyncio.create_task(asyncio.to_thread(import_module, "recsys.data.catalogue"))
    following = asyncio.create_task(bundles.run(), name="follow the live bundle")
    following.add_done_callback(_report)
    rules = OperatorFile(settings.rules_path, history=settings.rules_history_dir)
    reading_rules = asyncio.create_task(rules.run(), name="follow the operator's rules")
    reading_rules.add_done_callback(_report)
    try:
        yield Services(
            bundles=bundles,
            pipeline=Pipeline(
                PipelineConfig(
                    deadline_ms=settings.deadline_ms, max_deadline_ms=settings.max_deadline_ms
                ),
                operator=lambda: rules.current,
            ),
            draining=draining or Draining(),
            item_age=ItemAge(settings.item_features_max_age_ms),
            events=events,
            exposures=exposures,
            topics=topics,
            static=static,
            probes={
                "redis": lambda: ask_redis(redis_url),
                "kafka": lambda: ask_kafka(settings, endpoints),
                "triton": lambda: ask_triton(triton),
                "spool": spools.ask,
            },
        )
    finally:
        await reading
        for task in (following, reading_rules):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(follower.stop)
        await asyncio.to_thread(events.stop)
        await asyncio.to_thread(exposures.stop)
        spools.close()
        with contextlib.suppress(RecsysError):
            await announcements.withdraw()
        await hashes.aclose()
        await triton.close()


def _live_bundles(
    settings: Settings,
    store: BundleStore,
    triton: TritonServer,
    hashes: AsyncRedisHashes,
    follower: ItemFollower,
    announcements: Announcements,
) -> LiveBundles:
    """Give what takes bundles up: how one is read, and what serves it from then on."""
    store_breaker, hedge = CircuitBreaker("redis", STORE_BREAKER), Hedge()

    def serve(bundle: ServedBundle) -> LiveBundle:
        plan = load_plan(store.path(bundle.bundle_id) / PLAN_FILE)
        items = LiveItems(bundle)
        follower.add(items, bundle.log_positions)
        return LiveBundle(
            bundle,
            TritonModel(triton, bundle.bundle_id),
            AsyncOnlineReader(plan, hashes),
            clock=now_ms,
            namespace=settings.namespace,
            store_breaker=store_breaker,
            hedge=hedge,
            items=items,
        )

    def load(bundle_id: str) -> ServedBundle:
        bundle = load_served_bundle(store.path(bundle_id), room=settings.max_created_items)
        try:
            if store.live() == bundle_id:
                write_static_list(settings.static_list_path, bundle)
        except OSError as error:  # a full disk is no reason to stay on the old bundle
            logger.warning("the static list stays as it was: %s", error)
        return bundle

    return LiveBundles(
        pointers=store,
        files=[settings.bundle_dir / name for name in (LIVE_FILE, BESIDE_FILE)],
        load=load,
        serve=serve,
        model_server=triton,
        model_name=model_name,
        announce=announcements.announce,
    )


def make_overload(settings: Settings) -> Overload | None:
    """Give what turns requests away; ``None`` where the settings say that all are answered."""
    if settings.target_ms == 0:
        return None
    return Overload(Admission(AdmissionConfig(target_ms=settings.target_ms)))


def make_gate(settings: Settings, endpoints: Endpoints) -> Gate | None:
    """Give the gate before the endpoints; ``None`` where everyone may do everything.

    Raises:
        ConfigurationError: when callers are to be asked for a key and nobody has one.
    """
    port = admin_port(settings)
    if not require_callers_known(settings):
        return Gate(admin_port=port) if port is not None else None
    limiter = RateLimiter(
        AsyncRedisClient(endpoints.require_redis(), max_connections=_COUNTING_CONNECTIONS),
        settings.namespace,
        RateConfig(
            rate_per_s=settings.rate_limit,
            burst=settings.rate_burst,
            without_redis=settings.rate_limit_without_redis,
        ),
    )
    return Gate(
        Authenticator(KeyRing(key_file(settings)), _open_verifier(settings)),
        admin_port=port,
        limiter=limiter,
    )


def _open_verifier(settings: Settings) -> TokenVerifier | None:
    if settings.jwt_jwks is None:
        return None
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        raise ConfigurationError(
            "RECSYS_JWT_JWKS is set, so wanted RECSYS_JWT_ISSUER and RECSYS_JWT_AUDIENCE too: "
            "without them tokens made for others would open this API"
        )
    # Imported where tokens are used: cryptography takes a while.
    from recsys.security.signing_keys import open_signing_keys
    from recsys.security.tokens import JwtVerifier, TokenConfig

    config = TokenConfig(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithms=tuple(n.strip() for n in settings.jwt_algorithms.split(",") if n.strip()),
        scope_claim=settings.jwt_scope_claim,
        scope_prefix=settings.jwt_scope_prefix,
        leeway_s=settings.jwt_leeway_s,
    )
    return JwtVerifier(config, open_signing_keys(settings.jwt_jwks))


def _static_list(settings: Settings) -> ServedBundle | None:
    try:
        return read_static_list(settings.static_list_path)
    except BundleError as error:
        logger.warning("%s", error)
        return None


def _connect(settings: Settings, endpoints: Endpoints, topics: Topics) -> EventWriter:
    # Imported by the thread that connects: the client takes a fifth of a second to import.
    from recsys.events.kafka import WriterConfig, connect_writer, ensure_topics

    ensure_topics(settings, endpoints, topics.all(), timeout_s=_CONNECT_S)
    return connect_writer(
        settings, endpoints, config=WriterConfig(linger_ms=0), timeout_s=_CONNECT_S
    )


def _connect_items(settings: Settings, endpoints: Endpoints, topics: Topics) -> EventReader:
    from recsys.events.kafka import FOLLOWING, connect_reader

    return connect_reader(
        settings, endpoints, topics=[topics.items], group=f"{topics.namespace}.catalogue",
        config=replace(FOLLOWING, start_timeout_ms=round(_CONNECT_S * 1e3)),
    )  # fmt: skip


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("given up: %s", task.get_name(), exc_info=error)
