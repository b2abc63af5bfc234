"""Compute all features anew from the event log: after a change of feature_repo, or a lost Redis.

Usage::

    python -m serving.backfill          # or: recsys backfill

Running stream workers need not be stopped: what they write is refused from the moment this begins
to write (``guarded_writer.py``), they wait, and then go on from the position the event log reached.
Interrupted while it writes, it is done again by a worker, or run it again yourself: nobody believes
a store that is half old and half new. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recsys.endpoints import Endpoints, resolve
from recsys.errors import RecsysError
from recsys.features import plan as plans
from recsys.features.backfill import Backfilled, backfill
from recsys.features.guarded_writer import GuardedWriter
from recsys.features.hashes import ANY_VERSION, VERSION_FIELD, Write
from recsys.features.layout import project_of_key
from recsys.features.lease import Lease, rebuild_lease
from recsys.features.plan import Plan
from recsys.features.progress import StoredProgress, fields_of_others, progress_key
from recsys.features.redis_hashes import RedisHashes, connect
from recsys.settings import Settings

_WRITE_AT_ONCE = 2_048
"""Entities between two steps of the progress bar."""


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
        "entities": len(result.hashes.content),
        "seconds": round(time.monotonic() - began_s, 2),
        "plan": plan.schema_hash,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def run(
    settings: Settings, endpoints: Endpoints, plan: Plan, console: Console
) -> Backfilled:  # fmt: skip
    """Compute, then write, alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("events of the log", total=None)
        result = backfill(
            settings.event_log_dir,
            plan,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
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
            task = progress.add_task("entities", total=len(result.hashes.content))
            _write(
                writer,
                StoredProgress(store, settings.namespace),
                result,
                lambda done: progress.update(task, advance=done),
                lambda: remove_others(client, settings.namespace, result, writer),
            )
    return result


def _write(
    writer: GuardedWriter,
    progress: StoredProgress,
    result: Backfilled,
    done: Callable[[int], None],
    remove: Callable[[], int],
) -> None:
    # From here until the end the store is half old, half new: the mark keeps workers waiting.
    writer.seize(result.layout)
    writes = [
        Write(key, {k: v for k, v in fields.items() if k != VERSION_FIELD}, ANY_VERSION)
        for key, fields in result.hashes.content.items()
    ]
    for start in range(0, len(writes), _WRITE_AT_ONCE):
        part = writes[start : start + _WRITE_AT_ONCE]
        writer.write(part)
        done(len(part))
    remove()
    writer.write([progress.fields(result.positions, result.bases, result.layout)])


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
    kept = result.hashes.content
    batch: list[bytes] = [
        key
        for key in client.scan_iter(count=1000)
        if project_of_key(key) == namespace and key not in kept
    ]
    for start in range(0, len(batch), 1000):
        part = batch[start : start + 1000]
        with client.pipeline(transaction=False) as pipeline:
            for key in part:
                pipeline.hexists(key, VERSION_FIELD)  # type: ignore[arg-type]
            ours = [key for key, mine in zip(part, pipeline.execute(), strict=True) if mine]
        writer.write([Write(key, {}, ANY_VERSION, remove=True) for key in ours])
        removed += len(ours)
    return removed


if __name__ == "__main__":
    sys.exit(main())
