"""Changes of what is served: a bundle made live, put beside the live one, or retired.

The steps, and what holds when one of them is killed, are those of ``serving/publish.py``.
"""

from __future__ import annotations

import asyncio
import fcntl
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from recsys.bundle.announced import Announcements
from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.store import BundleStore
from recsys.bundle.triton_repository import BundleToServe, TritonModelConfig, render
from recsys.endpoints import Endpoints
from recsys.errors import BundleError
from recsys.features.plan import PLAN_FILE
from recsys.features.plan import load as load_plan
from recsys.features.plan_history import PlanHistory
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.inference.triton import TritonModel, TritonServer, model_name
from recsys.settings import Settings
from serving.bundle_trial import TrialConfig, try_out, warm_up
from serving.bundles_in_use import await_taken_up, unload_unused

_TEMPLATE = Path(__file__).parent / "model_repository" / "model.py"


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """How a bundle is tried before it goes live."""

    trial: TrialConfig = field(default_factory=TrialConfig)
    api_timeout_s: float = 10.0
    """How long the API processes may take to take the bundle up before we warn."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What became of it."""

    bundle_id: str
    model: str
    live: str | None
    """What answers requests that are assigned to none."""
    previous: str | None
    beside: tuple[str, ...]
    """Served beside it, to the requests assigned to them."""
    unloaded: tuple[str, ...]
    took_ms: dict[str, float]
    """By step."""


def publish(
    settings: Settings,
    endpoints: Endpoints,
    bundle_id: str | None = None,
    *,
    console: Console,
    config: PublishConfig | None = None,
    fence: int | None = None,
    beside: bool = False,
) -> Published:
    """Make a bundle live (``None``: the newest). ``fence``: see ``BundleStore.activate``.

    ``beside``: serve it beside the live bundle instead, to the requests that are assigned to it.

    Raises:
        BundleError: when there is no such bundle, it is damaged or it answers nonsense.
        ServerError: when Triton is away or cannot load it. The live bundle stays live.
    """
    with _one_at_a_time(settings):
        change = _Change(settings, endpoints, console, config or PublishConfig())
        return asyncio.run(change.publish(bundle_id, fence=fence, beside=beside))


def retire(
    settings: Settings,
    endpoints: Endpoints,
    bundle_id: str,
    *,
    console: Console,
    config: PublishConfig | None = None,
) -> Published:
    """Serve a bundle beside the live one no longer, and unload it once nobody holds it.

    Raises:
        BundleError: when it is not served beside the live one.
        ServerError: when Triton is away.
    """
    with _one_at_a_time(settings):
        change = _Change(settings, endpoints, console, config or PublishConfig())
        return asyncio.run(change.retire(bundle_id))


class _Change:
    """One change of what is served."""

    def __init__(
        self, settings: Settings, endpoints: Endpoints, console: Console, config: PublishConfig
    ) -> None:
        self._settings = settings
        self._console = console
        self._config = config
        self._triton = endpoints.require_triton()
        self._redis = AsyncRedisClient(endpoints.require_redis())
        self._announcements = Announcements(self._redis, settings.namespace)
        self._store = BundleStore(settings.bundle_dir)
        self._took_ms: dict[str, float] = {}

    async def publish(self, bundle_id: str | None, *, fence: int | None, beside: bool) -> Published:
        store, settings = self._store, self._settings
        manifest = _wanted(store, bundle_id)
        wanted = manifest.bundle_id
        _check_plan(settings, manifest)
        name = model_name(wanted)
        async with TritonServer(self._triton) as server:
            with self._step("render", wanted):
                has_changed = render_bundle(settings, store, manifest, name)
            with self._step("load", wanted):
                # Loading again what is loaded would cost seconds: the compiled model.py beside it
                # makes its folder look new.
                if has_changed or not await server.is_model_ready(name):
                    await server.load(name)
            model = TritonModel(server, wanted)
            with self._step("warm up", wanted):
                await warm_up(model, manifest, self._config.trial)
            with self._step("try", wanted):
                await try_out(model, manifest, self._config.trial)
            if beside:
                with self._step("put beside the live one", wanted):
                    store.put_beside(wanted)
            else:
                with self._step("activate", wanted):
                    store.activate(wanted, fence=fence)
            return await self._settle(server, wanted)

    async def retire(self, bundle_id: str) -> Published:
        self._store.retire(bundle_id)
        async with TritonServer(self._triton) as server:
            return await self._settle(server, bundle_id)

    async def _settle(self, server: TritonServer, changed: str) -> Published:
        """Wait until the API processes have followed, then unload what is in nobody's use."""
        store = self._store
        live, before, beside = store.live(), store.before(), store.beside()
        try:
            with self._step("wait for the API", changed):
                found = await await_taken_up(
                    self._announcements, live, beside, timeout_s=self._config.api_timeout_s
                )
            if found:
                self._console.print(f"[yellow]{found}[/yellow]")
            with self._step("unload what nobody serves", changed):
                unloaded = await unload_unused(
                    server,
                    self._announcements,
                    self._settings,
                    keep={bundle for bundle in (live, before, *beside) if bundle is not None},
                )
        finally:
            await self._redis.aclose()
        return Published(
            bundle_id=changed,
            model=model_name(changed),
            live=live,
            previous=before,
            beside=beside,
            unloaded=tuple(unloaded),
            took_ms=self._took_ms,
        )

    @contextmanager
    def _step(self, title: str, bundle_id: str) -> Iterator[None]:
        start = time.perf_counter()
        with self._console.status(f"{title} …"):
            yield
        took_ms = self._took_ms[title] = round((time.perf_counter() - start) * 1e3, 1)
        self._console.print(f"[green]✓[/green] {title} {bundle_id}: {took_ms:.0f} ms")


def _wanted(store: BundleStore, bundle_id: str | None) -> Manifest:
    if bundle_id is not None:
        return read_manifest(store.path(store.resolve(bundle_id)))
    bundles = store.list()
    if not bundles:
        raise BundleError(f"wanted a bundle in {store.bundle_dir}, found none; run `recsys train`")
    return bundles[0]


def _check_plan(settings: Settings, manifest: Manifest) -> None:
    """Refuse a bundle whose features the stream worker does not compute: it would read zeros."""
    path = settings.state_dir / PLAN_FILE
    if not path.is_file():
        return  # the worker runs on another machine
    plan = load_plan(path)
    found = plan.schema_hash
    # Views of former plans are kept up to date until they are retired.
    kept = PlanHistory(settings.state_dir).kept(plan.project)
    held = {view.state_name for one in kept for view in one.views}
    is_kept = bool(manifest.views) and set(manifest.views.values()) <= held
    if found != manifest.plan_schema_hash and not is_kept:
        raise BundleError(
            f"bundle {manifest.bundle_id} was trained on feature plan {manifest.plan_schema_hash}, "
            f"the stream worker computes plan {found}; run `recsys train` on the present features, "
            "or put the feature repository back as it was"
        )


def render_bundle(settings: Settings, store: BundleStore, manifest: Manifest, name: str) -> bool:
    """Put a bundle into the model repository as ``name``; tells whether anything was written."""
    paths = sysconfig.get_paths()
    checkout = Path(__file__).resolve().parent.parent
    return render(
        BundleToServe(
            bundle_id=manifest.bundle_id,
            path=store.path(manifest.bundle_id),
            dimensions=manifest.dimensions,
        ),
        settings.model_repository,
        name=name,
        template=_TEMPLATE,
        python_paths=list(
            dict.fromkeys([checkout, Path(paths["purelib"]), Path(paths["platlib"])])
        ),
        state_dir=settings.state_dir,
        config=TritonModelConfig(
            num_candidates=manifest.num_candidates, max_created_items=settings.max_created_items
        ),
    )


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    """Hold a lock that ends with the process, so that two publishers do not undo each other."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "publish.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
