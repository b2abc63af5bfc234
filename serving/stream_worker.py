"""The stream worker: Kafka in, features to Redis and events to the Parquet log out.

Usage::

    python -m serving.stream_worker

Any number may run; one holds the lease and works, the others stand by and take over within
seconds (``recsys/features/lease.py``). Writes ``<run_dir>/stream_worker.ready`` once it consumes,
logs to stderr, stops cleanly on SIGTERM or SIGINT.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import redis
from prometheus_client import start_http_server

from recsys.clock import now_ms
from recsys.endpoints import Endpoints, resolve
from recsys.errors import ConfigurationError, FeatureError, RecsysError, ServerError
from recsys.events.kafka import connect_reader, connect_writer, ensure_topics
from recsys.events.sink import EventSink
from recsys.events.topics import Topics
from recsys.features import plan as plans
from recsys.features.lease import LeasedWriter, LeaseLostError
from recsys.features.plan import Plan
from recsys.features.redis_hashes import RedisHashes, connect
from recsys.features.stream import FeatureStream
from recsys.features.worker import WorkerConfig, WorkerRun
from recsys.settings import Settings

logger = logging.getLogger("recsys.stream_worker")

_RETRY_S = 0.5
"""Pause before a broken run is begun anew: Redis or Kafka may just be restarting."""
_WAIT_S = 2.0
"""Pause before a run that could not begin is tried again: a backfill may be under way."""


class _Stop:
    """Set by a signal, asked between batches.

    SIGTERM and SIGINT ask to stop; SIGUSR1 asks to write the event log's buffer now, which
    otherwise waits until it is full or a minute old (``recsys lag --wait`` sends it).
    """

    def __init__(self) -> None:
        self.asked = False
        self._store_asked = False
        signal.signal(signal.SIGUSR1, self._ask_to_store)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True

    def _ask_to_store(self, _signal: int, _frame: FrameType | None) -> None:
        self._store_asked = True

    def take_store(self) -> bool:
        """Tell whether SIGUSR1 came since this was last asked."""
        asked, self._store_asked = self._store_asked, False
        return asked

    def __call__(self) -> bool:
        return self.asked


def ready_file(settings: Settings) -> Path:
    """Give the file that says a worker consumes, and which process it is."""
    return settings.run_dir / "stream_worker.ready"


def group_of(settings: Settings) -> str:
    """Give the consumer group under which positions are committed."""
    return f"{settings.namespace}.features"


@contextlib.contextmanager
def open_run(
    settings: Settings, endpoints: Endpoints, plan: Plan, lease: LeasedWriter, stop: _Stop
) -> Iterator[WorkerRun]:
    """Connect everything one run needs, and let go of it at the end."""
    topics = Topics(namespace=settings.namespace)
    with contextlib.ExitStack() as stack:
        # A group that never committed begins where the log does: that is how we learn where.
        look = connect_reader(
            settings,
            endpoints,
            topics=[topics.items, topics.behaviour],
            group=f"{group_of(settings)}.look.{uuid.uuid4().hex}",
        )
        bounds = {
            at: (look.positions()[at], look.positions()[at] + n) for at, n in look.lag().items()
        }
        look.close()
        group = group_of(settings)
        items = connect_reader(settings, endpoints, topics=[topics.items], group=group)
        stack.callback(items.close)
        behaviour = connect_reader(settings, endpoints, topics=[topics.behaviour], group=group)
        stack.callback(behaviour.close)
        letters = connect_writer(settings, endpoints)
        stack.callback(letters.close)
        sink = EventSink(settings.event_log_dir, [*items.assignment(), *behaviour.assignment()])
        stack.callback(sink.close)
        store = RedisHashes(endpoints.require_redis())
        stack.callback(store.close)
        yield WorkerRun(
            stream=FeatureStream(plan, store, topics),
            store=store,
            lease=lease,
            items=items,
            behaviour=behaviour,
            bounds=bounds,
            dead_letters=letters,
            sink=sink,
            topics=topics,
            clock=now_ms,
            stop=stop,
            config=WorkerConfig(),
        )


def work(settings: Settings, endpoints: Endpoints, stop: _Stop) -> None:
    """Apply the log until ``stop``; a broken run is begun anew from what was written.

    Each run loads the plan, which may have been compiled anew.

    Raises:
        ConfigurationError: when the first run cannot begin; later ones are waited for.
    """
    client = connect(endpoints.require_redis())
    lease = LeasedWriter(client, settings.namespace)
    ready = ready_file(settings)
    waiting = consumed = False
    try:
        while not stop():
            try:
                plan = plans.load(settings.state_dir / plans.PLAN_FILE)
                if not waiting and (holder := lease.holder()):
                    logger.info("standing by", extra={"holder": holder})
                    waiting = True
                if not lease.acquire(stop=stop):
                    return
                with open_run(settings, endpoints, plan, lease, stop) as run:
                    run.start()
                    _write_ready(ready)
                    consumed = True
                    gc.collect()
                    gc.freeze()  # what a run keeps for life need not be looked at again
                    logger.info("consuming", extra={"plan": plan.schema_hash})
                    while not stop():
                        run.step()
                        if stop.take_store():
                            run.store()
                    run.store()
            except LeaseLostError as error:
                logger.warning("lease lost", extra={"reason": str(error)})
            except (ServerError, redis.RedisError) as error:
                logger.warning("run broken, begun anew", extra={"reason": str(error)})
                time.sleep(_RETRY_S)
            except (ConfigurationError, FeatureError) as error:
                if not consumed:
                    raise
                logger.error("run cannot begin, tried again", extra={"reason": str(error)})
                time.sleep(_WAIT_S)
            finally:
                waiting = False
                _remove_own(ready)
                with contextlib.suppress(redis.RedisError):
                    lease.release()
    finally:
        client.close()


def _write_ready(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"pid": os.getpid()}))
    temporary.replace(path)


def _remove_own(path: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()


def _show_metrics(settings: Settings) -> None:
    """Serve the metrics; a port that is taken (by the worker stood by for, say) stops nothing."""
    if settings.worker_metrics_port == 0:
        return
    try:
        start_http_server(settings.worker_metrics_port, addr=settings.host)
    except OSError as error:
        reason = f"port {settings.worker_metrics_port}: {error}; set RECSYS_WORKER_METRICS_PORT"
        logger.warning("metrics are not shown", extra={"reason": reason})


class _Fields(logging.Formatter):
    """A constant message, its fields behind it as JSON."""

    _OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in record.__dict__.items() if k not in self._OWN}
        line = super().format(record)
        return f"{line} {json.dumps(fields, default=str)}" if fields else line


def main() -> int:
    """Run the worker; 0 after a clean stop, 1 with one line when it cannot run."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fields("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("kafka").setLevel(logging.WARNING)
    stop = _Stop()
    settings = Settings()
    try:
        endpoints = resolve(settings)
        plans.ensure(settings.state_dir, project=settings.namespace)
        topics = Topics(namespace=settings.namespace)
        ensure_topics(settings, endpoints, topics.all())
        _show_metrics(settings)
        work(settings, endpoints, stop)
    except RecsysError as error:
        logger.error("stream worker stops", extra={"reason": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
