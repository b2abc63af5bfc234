"""Compute all features anew from the event log: after a change of feature_repo, or a lost Redis.

Usage::

    python -m serving.backfill          # or: recsys backfill

Running stream workers need not be stopped: what they write is refused from the moment this begins
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
from collections.abc import Sequence
from pathlib import Path

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recsys.endpoints import Endpoints, resolve
from recsys.errors import RecsysError
from recsys.features import plan as plans
from recsys.features.backfill import Backfilled, backfill
from recsys.features.entities import layout_of
from recsys.features.guarded_writer import GuardedWriter
from recsys.features.hashes import ANY_VERSION, VERSION_FIELD, Write
from recsys.features.layout import project_of_key
from recsys.features.lease import Lease, rebuild_lease
from recsys.features.plan import Plan
from recsys.features.progress import StoredProgress, fields_of_others, progress_key
from recsys.features.redis_hashes import RedisHashes, connect
from recsys.settings import Settings

_LOOK_AT_ONCE = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Backfill; 0 when done, 1 with one line when it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="recsys backfill", description="compute all features anew from the event log"
    )
    parser.parse_args(argv)
    settings = Settings()
    began_s = time.monotonic()
    try:
        endpoints = resolve(settings)
        endpoints.require_redis()
        plan = plans.ensure(settings.state_dir, project=settings.namespace)
        result = run(settings, endpoints, plan, Console(stderr=True))
    except (RecsysError, redis.RedisError) as error:
        sys.stderr.write(f"recsys backfill: {error}\n")
        return 1
    report = {
        "events": result.num_events,
        "entities": result.num_entities,
        "seconds": round(time.monotonic() - began_s, 2),
        "plan": plan.schema_hash,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def work_folder(settings: Settings) -> Path:
    """Give where a backfill lays the event log out by entity."""
    return settings.state_dir / "backfill"


def run(settings: Settings, endpoints: Endpoints, plan: Plan, console: Console) -> Backfilled:
    """Compute and write everything, alone."""
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
        folder = work_folder(settings)
        layout = layout_of([plan])
        # From here until the end the store is half old, half new: the mark keeps workers waiting.
        token = _seize(writer, layout, folder)
        result = backfill(
            settings.event_log_dir,
            plan,
            store,
            writer,
            folder,
            token=token,
            progress=lambda what, done, total: shown.update(
                task, description=what, completed=done, total=total
            ),
        )
        remove_others(client, settings.namespace, result, writer)
        progress = StoredProgress(store, settings.namespace)
        writer.write([progress.fields(result.positions, result.bases, result.layout)])
        shutil.rmtree(folder, ignore_errors=True)
    return result


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
