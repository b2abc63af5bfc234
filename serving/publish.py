"""``recsys publish [BUNDLE_ID]``: load a bundle beside the live one, try it, make it live.

1. render its Triton model into the model repository
2. load it over gRPC; requests go on being answered by the live bundle
3. warm it up, then ask it what a request would ask and look at the answer
4. move the pointer: every API process takes the bundle up within half a second
5. unload what is older than the bundle that was live before, which stays for a rollback

Killed at any line and run again, it ends in the same place: every step is whole or not at all, and
harmless when repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.store import BundleStore
from recsys.bundle.triton_repository import BundleToServe, TritonModelConfig, remove, render
from recsys.client import AsyncClient, ClientConfig
from recsys.deadline import Deadline
from recsys.endpoints import Endpoints, resolve
from recsys.errors import BundleError, RecsysError, ServerError, StageError
from recsys.features.plan import PLAN_FILE
from recsys.features.plan import load as load_plan
from recsys.features.plan_history import PlanHistory
from recsys.inference.model import NUMPY_DTYPES, Array, Arrays
from recsys.inference.triton import MODEL_PREFIX, TritonModel, TritonServer, model_name
from recsys.models import signature
from recsys.models.signature import Dimensions
from recsys.settings import Settings

TRY_AGAIN = 3
"""Exit code when a server did not answer: the same command may succeed in a minute."""
_TEMPLATE = Path(__file__).parent / "model_repository" / "model.py"


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """How a bundle is tried before it goes live."""

    warm_up_batches: tuple[int, ...] = (1, 8, 32, 1)
    """Users in each warm-up call: the first calls of a size allocate."""
    warm_up_timeout_s: float = 60.0
    smoke_k: int = 10
    """Items the smoke request asks for."""
    smoke_timeout_s: float = 5.0
    api_timeout_s: float = 10.0
    """How long the API of this machine may take to take the bundle up before we warn."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What became of it."""

    bundle_id: str
    model: str
    previous: str | None
    unloaded: tuple[str, ...]
    took_ms: dict[str, float]
    """By step."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="recsys publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle_id", nargs="?", help="an id, or `challenger`; default: the newest bundle"
    )
    parser.add_argument(
        "--fence", type=int,
        help="number of the pipeline's run that asks; refused once a later one was here",
    )  # fmt: skip
    args = parser.parse_args(argv)
    console = Console(stderr=True)
    settings = Settings()
    try:
        published = publish(
            settings, resolve(settings), args.bundle_id, console=console, fence=args.fence
        )
    except RecsysError as error:
        sys.stderr.write(f"recsys publish: {error}\n")
        return TRY_AGAIN if isinstance(error, (ServerError, StageError)) else 2
    sys.stdout.write(
        json.dumps(
            {
                "live": published.bundle_id,
                "previous": published.previous,
                "unloaded": published.unloaded,
                "took_ms": published.took_ms,
            }
        )
        + "\n"
    )
    return 0


def publish(
    settings: Settings,
    endpoints: Endpoints,
    bundle_id: str | None = None,
    *,
    console: Console,
    config: PublishConfig | None = None,
    fence: int | None = None,
) -> Published:
    """Make a bundle live (``None``: the newest). ``fence``: see ``BundleStore.activate``.

    Raises:
        BundleError: when there is no such bundle, it is damaged or it answers nonsense.
        ServerError: when Triton is away or cannot load it. The live bundle stays live.
    """
    with _one_at_a_time(settings):
        return asyncio.run(
            _publish(settings, endpoints, bundle_id, console, config or PublishConfig(), fence)
        )


async def _publish(
    settings: Settings,
    endpoints: Endpoints,
    bundle_id: str | None,
    console: Console,
    config: PublishConfig,
    fence: int | None,
) -> Published:
    store = BundleStore(settings.bundle_dir)
    manifest = _wanted(store, bundle_id)
    _check_plan(settings, manifest)
    name = model_name(manifest.bundle_id)
    previous = store.live()
    took_ms: dict[str, float] = {}

    @contextmanager
    def step(title: str) -> Iterator[None]:
        start = time.perf_counter()
        with console.status(f"{title} …"):
            yield
        took_ms[title] = round((time.perf_counter() - start) * 1e3, 1)
        console.print(f"[green]✓[/green] {title} {manifest.bundle_id}: {took_ms[title]:.0f} ms")

    async with TritonServer(endpoints.require_triton()) as server:
        with step("render"):
            has_changed = render_bundle(settings, store, manifest, name)
        with step("load"):
            # Loading again what is loaded would cost seconds: the compiled model.py beside it
            # makes its folder look new.
            if has_changed or not await server.is_model_ready(name):
                await server.load(name)
        model = TritonModel(server, manifest.bundle_id)
        with step("warm up"):
            for num_users in config.warm_up_batches:
                deadline = Deadline.after_ms(config.warm_up_timeout_s * 1e3)
                await model.recommend(_request(manifest.dimensions, num_users, k=100), deadline)
        with step("try"):
            await _try(model, manifest, config)
        with step("activate"):
            store.activate(manifest.bundle_id, fence=fence)
        if endpoints.api_url:
            with step("wait for the API"):
                await _wait_for_api(endpoints.api_url, manifest.bundle_id, console, config)
        with step("unload older than the one before"):
            unloaded = await _unload_others(
                server, settings, keep={manifest.bundle_id, previous or manifest.bundle_id}
            )
    return Published(
        bundle_id=manifest.bundle_id,
        model=name,
        previous=previous,
        unloaded=tuple(unloaded),
        took_ms=took_ms,
    )


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
        config=TritonModelConfig(num_candidates=manifest.num_candidates),
    )


def _request(dimensions: Dimensions, num_users: int, *, k: int) -> dict[str, Array]:
    """Give a request of users nobody knows: the cold start every bundle must be able to answer."""
    inputs: dict[str, Array] = {}
    for spec in signature.recommend_inputs(dimensions):
        shape = tuple(1 if size == -1 else size for size in spec.shape)
        inputs[spec.name] = np.zeros((num_users, *shape), dtype=NUMPY_DTYPES[spec.dtype])
    inputs["k"][:] = k
    return inputs


async def _try(model: TritonModel, manifest: Manifest, config: PublishConfig) -> None:
    k = min(config.smoke_k, manifest.num_items)
    deadline = Deadline.after_ms(config.smoke_timeout_s * 1e3)
    answer = await model.recommend(_request(manifest.dimensions, 1, k=k), deadline)
    _check(answer, manifest, k)


def _check(answer: Arrays, manifest: Manifest, k: int) -> None:
    index, score = answer["item_index"][0], answer["score"][0]
    index, score = index[index != 0], score[index != 0]  # fewer than k may be available
    wrong: list[str] = []
    if not (len(index) and (index > 0).all() and (index <= manifest.num_items).all()):
        wrong.append(f"item rows {index.tolist()[:k]} where 1 to {manifest.num_items} were wanted")
    if len(np.unique(index)) != len(index):
        wrong.append("an item twice")
    if not (np.isfinite(score).all() and (np.diff(score) <= 0).all()):
        wrong.append(f"scores {score.tolist()[:k]} where finite, falling ones were wanted")
    if wrong:
        raise BundleError(
            f"bundle {manifest.bundle_id} answered a request with {'; '.join(wrong)}; it does not "
            "go live, the live bundle stays"
        )


async def _wait_for_api(
    api_url: str, bundle_id: str, console: Console, config: PublishConfig
) -> None:
    """Return when the API of this machine serves the bundle, or warn that it does not.

    The pointer has moved, so this is a courtesy to whoever asks for recommendations next.
    """
    patience = ClientConfig(timeout_s=2.0, retries=0)
    deadline = Deadline.after_ms(config.api_timeout_s * 1e3)
    found = "no answer"
    async with AsyncClient(api_url, patience) as client:
        while deadline.remaining_s() > 0:
            try:
                found = (await client.ready()).bundle or "no bundle"
            except RecsysError as error:
                found = str(error)
            if found == bundle_id:
                return
            await asyncio.sleep(0.05)
    console.print(f"[yellow]the API at {api_url} does not serve {bundle_id} yet: {found}[/yellow]")


async def _unload_others(server: TritonServer, settings: Settings, keep: set[str]) -> list[str]:
    """Unload and remove our models of other bundles; foreign models are left alone."""
    kept = {model_name(bundle_id) for bundle_id in keep}
    if len(kept) == 1:
        return []  # the same bundle again: what was there for a rollback stays
    repository = settings.model_repository
    ours = {path.name for path in repository.glob(f"{MODEL_PREFIX}*")}
    loaded = set(await server.loaded_models())
    for remains in repository.glob(f".{MODEL_PREFIX}*"):  # of a render that was killed
        shutil.rmtree(remains, ignore_errors=True)
    others = sorted(ours - kept)
    for name in others:
        if name in loaded:
            await server.unload(name)
        remove(repository, name)
    return others


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    """Hold a lock that ends with the process, so that two publishers do not undo each other."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "publish.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
