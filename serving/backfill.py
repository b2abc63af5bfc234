"""Compute features from the event log: new views, or all of them after Redis was lost.

Usage::

    python -m serving.backfill [--views all|new|VIEW …]          # or: recsys backfill

With ``--views new`` the declared views that are not in the store yet are computed while all others
are served and kept up to date; then the workers take them over from where the event log ended.
Interrupted, it is run again.

Otherwise everything is computed anew. Running stream workers need not be stopped: what they write
is refused from the moment this begins
(``guarded_writer.py``), they wait, and then go on from the position the event log reached.
Interrupted, it is gone on with by a worker, or run it again yourself: nobody believes a store that
is half old and half new. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recsys.endpoints import Endpoints, resolve
from recsys.errors import ConfigurationError, RecsysError
from recsys.features import collector, current_plan
from recsys.features.backfill import Backfilled, backfill, views_folder, work_folder
from recsys.features.entities import layout_of, streamed_views
from recsys.features.guarded_writer import GuardedWriter
from recsys.features.hashes import ANY_VERSION, VERSION_FIELD, Write
from recsys.features.key_layout import project_of_key
from recsys.features.lease import Lease, rebuild_lease
from recsys.features.plan import Plan
from recsys.features.plan_history import PlanHistory
from recsys.features.progress import StoredProgress, fields_of_others, numbers_of, progress_key
from recsys.features.redis_hashes import RedisHashes, connect
from recsys.settings import Settings

_LOOK_AT_ONCE = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Backfill; 0 when done, 1 with one line when it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="recsys backfill", description="compute features from the event log"
    )
    parser.add_argument(
        "--views",
        nargs="+",
        default=["all"],
        metavar="VIEW",
        help="all: everything anew, workers wait; new: declared views that are not in the store, "
        "while workers go on; or names of such views",
    )
    views: list[str] = parser.parse_args(argv).views
    settings = Settings()
    collector.calm()
    began_s = time.monotonic()
    try:
        endpoints = resolve(settings)
        endpoints.require_redis()
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        history = PlanHistory(settings.state_dir)
        with current_plan.compiling(settings.state_dir):
            history.record(plan)
        kept = history.kept(plan.project)
        console = Console(stderr=True)
        result: Backfilled | None
        if views == ["all"]:
            result = run(settings, endpoints, kept, console)
        else:
            result = add(settings, endpoints, kept, console, named(plan, views))
    except (RecsysError, redis.RedisError) as error:
        sys.stderr.write(f"recsys backfill: {error}\n")
        return 1
    report = {
        "events": result.num_events if result else 0,
        "entities": result.num_entities if result else 0,
        "seconds": round(time.monotonic() - began_s, 2),
        "plan": plan.schema_hash,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def named(plan: Plan, views: Sequence[str]) -> set[str]:
    """Give the states of ``plan`` that ``--views`` names. Raises FeatureError for no such view."""
    streamed = {view.name: view.state_name for view in streamed_views(plan)}
    if list(views) == ["new"]:
        return set(streamed.values())
    unknown = sorted(set(views) - set(streamed))
    if unknown:
        raise ConfigurationError(
            f"wanted all, new, or streamed views of the plan ({', '.join(streamed)}); "
            f"found {', '.join(unknown)}"
        )
    return {streamed[name] for name in views}


def run(
    settings: Settings, endpoints: Endpoints, plan: Plan | Sequence[Plan], console: Console
) -> Backfilled:
    """Compute and write everything, alone."""
    kept = [plan] if isinstance(plan, Plan) else list(plan)
    with _parts(settings, endpoints, console) as parts:
        folder = work_folder(settings.state_dir)
        layout = layout_of(kept)
        # From here until the end the store is half old, half new: the mark keeps workers waiting.
        token = _seize(parts.writer, layout, folder)
        result = backfill(
            settings.event_log_dir,
            kept,
            parts.store,
            parts.writer,
            folder,
            token=token,
            progress=parts.show,
        )
        remove_others(parts.client, settings.namespace, result, parts.writer)
        progress = StoredProgress(parts.store, settings.namespace)
        parts.writer.set_progress(progress.fields(result.positions, result.bases, result.layout))
        shutil.rmtree(folder, ignore_errors=True)
    return result


def add(
    settings: Settings,
    endpoints: Endpoints,
    kept: Sequence[Plan],
    console: Console,
    states: Collection[str],
) -> Backfilled | None:
    """Compute those of ``states`` the store has not, while workers go on with the others.

    Gives ``None`` when it has them all. What is written meanwhile nobody reads or continues. At the
    end one step tells the workers to keep the new states, from the positions computed up to.

    Raises:
        StoreChangedError: when the store was lost or computed anew meanwhile.
    """
    with _parts(settings, endpoints, console) as parts:
        if not parts.writer.begin():
            raise ConfigurationError(
                "wanted features to add views to, found an empty online store; run "
                "`recsys backfill`, which computes everything"
            )
        progress = StoredProgress(parts.store, settings.namespace)
        held = progress.kept(layout_of(kept))
        new = sorted(set(states) - held)
        if not new:
            return None
        folder = views_folder(settings.state_dir)
        result = backfill(
            settings.event_log_dir,
            kept,
            parts.store,
            parts.writer,
            folder,
            states=new,
            anew=False,
            token=parts.writer.epoch[:8],
            progress=parts.show,
        )
        told = numbers_of(result.positions, result.bases)
        parts.writer.switch("-".join(sorted(held | set(new))), new, told)
        shutil.rmtree(folder, ignore_errors=True)
    return result


class _Parts(NamedTuple):
    client: redis.Redis
    store: RedisHashes
    writer: GuardedWriter
    show: Callable[[str, int, int], None]


@contextlib.contextmanager
def _parts(settings: Settings, endpoints: Endpoints, console: Console) -> Iterator[_Parts]:
    """Connect, and keep other backfills out."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    url = endpoints.require_redis()
    with contextlib.ExitStack() as stack:
        client = connect(url)
        stack.callback(client.close)
        store = RedisHashes(url)
        stack.callback(store.close)
        writer = GuardedWriter(url, settings.namespace)
        stack.callback(writer.close)
        lease = Lease(client, rebuild_lease(settings.namespace))
        lease.acquire(stop=lambda: False)
        stack.callback(lease.release)
        shown = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        task = stack.enter_context(shown).add_task("events laid out", total=None)

        def show(what: str, done: int, total: int) -> None:
            lease.check()
            shown.update(task, description=what, completed=done, total=total)

        yield _Parts(client, store, writer, show)


def _seize(writer: GuardedWriter, layout: str, folder: Path) -> str:
    """Keep all others out; gives the name of this attempt and of those it goes on with.

    What a former attempt wrote still stands when nobody has begun the store anew since.
    """
    path = folder / "attempt.json"
    token = uuid.uuid4().hex[:8]
    writer.begin()
    with contextlib.suppress(OSError, ValueError, KeyError):
        attempt = json.loads(path.read_bytes())
        if attempt["epoch"] == writer.epoch and attempt["layout"] == layout:
            token = str(attempt["token"])
    writer.seize(layout)
    folder.mkdir(parents=True, exist_ok=True)
    attempt = {"token": token, "epoch": writer.epoch, "layout": layout}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(attempt))
    temporary.replace(path)
    return token


def remove_others(
    client: redis.Redis, namespace: str, result: Backfilled, writer: GuardedWriter
) -> int:
    """Remove entities the stream made from records the event log does not have yet.

    The stream makes them again from where the log ends. Hashes that Feast alone wrote stay.
    """
    key_of_progress = progress_key(namespace)
    stored: list[bytes] = client.hkeys(key_of_progress)  # type: ignore[arg-type, assignment]
    # A partition of which the event log has nothing yet begins where Kafka's log does.
    others = fields_of_others(result.positions, stored)
    if others:
        client.hdel(key_of_progress, *others)  # type: ignore[arg-type]
    removed = 0
    batch: list[bytes] = []
    for key in client.scan_iter(count=1000):
        if project_of_key(key) == namespace:
            batch.append(key)
        if len(batch) >= _LOOK_AT_ONCE:
            removed += _remove(client, writer, result, batch)
            batch = []
    return removed + _remove(client, writer, result, batch)


def _remove(
    client: redis.Redis, writer: GuardedWriter, result: Backfilled, keys: list[bytes]
) -> int:
    kept = result.wrote(keys)
    others = [key for key, mine in zip(keys, kept, strict=True) if not mine]
    if not others:
        return 0
    with client.pipeline(transaction=False) as pipeline:
        for key in others:
            pipeline.hexists(key, VERSION_FIELD)  # type: ignore[arg-type]
        ours = [key for key, mine in zip(others, pipeline.execute(), strict=True) if mine]
    writer.write([Write(key, {}, ANY_VERSION, remove=True) for key in ours])
    return len(ours)


if __name__ == "__main__":
    sys.exit(main())
