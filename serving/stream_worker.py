"""The stream worker: Kafka in, features to Redis and events to the Parquet log out.

Usage::

    python -m serving.stream_worker [--number N]

Any number may run, on one machine or many: the consumer group shares the behaviour partitions out
among them (``recsys/features/worker.py``). On Tansu, whose groups cannot rebalance, one works and
the others stand by. Writes ``<run_dir>/stream_worker.ready`` once it consumes (worker N > 0:
``stream_worker-N.ready``), logs to stderr, stops cleanly on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis
from prometheus_client import start_http_server

from recsys.clock import now_ms
from recsys.endpoints import Endpoints, resolve
from recsys.errors import ConfigurationError, FeatureError, RecsysError, ServerError
from recsys.events.kafka import (
    connect_group_reader,
    connect_reader,
    connect_writer,
    ensure_topics,
)
from recsys.events.log import FixedShare, SharedReader
from recsys.events.schema import LoggedEvent
from recsys.events.sink import EventSink
from recsys.events.topics import Topics
from recsys.features import collector, current_plan
from recsys.features import plan as plans
from recsys.features.freshness import Freshness, views_of_kinds
from recsys.features.guarded_writer import GuardedWriter, StoreChangedError
from recsys.features.lease import Lease, LeaseLostError, worker_lease
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.patience import Patience, PatientHashes
from recsys.features.plan import Plan
from recsys.features.plan_history import PlanHistory
from recsys.features.quality.checker import Checker
from recsys.features.redis_hashes import RedisHashes, RedisKeys, connect
from recsys.features.stream import FeatureStream
from recsys.features.worker import WorkerRun
from recsys.features.worker_files import ready_file
from recsys.settings import Settings
from serving.cold_start import ColdStart
from serving.worker_process import Stop, log_to_stderr, remove_own, write_ready

logger = logging.getLogger("recsys.stream_worker")

_RETRY_S = 0.5
"""Pause before a broken run is begun anew: Redis or Kafka may just be restarting."""
_SCAN_TIMEOUT_S = 10.0
"""Longest wait for one step of a search for the keys of a user who is to be forgotten."""
_WAIT_S = 2.0
"""Pause before a run that could not begin is tried again: a backfill may be under way."""


def group_of(settings: Settings) -> str:
    """Give the consumer group that shares the partitions out."""
    return f"{settings.namespace}.features"


@contextlib.contextmanager
def open_run(
    settings: Settings,
    endpoints: Endpoints,
    kept: Sequence[Plan],
    writer: GuardedWriter,
    patience: Patience,
) -> Iterator[WorkerRun]:
    """Connect everything one run needs, and let go of it at the end."""
    topics = Topics(namespace=settings.namespace)
    with contextlib.ExitStack() as stack:
        group = group_of(settings)
        items = connect_reader(settings, endpoints, topics=[topics.items], group=group)
        stack.callback(items.close)
        behaviour: SharedReader
        if endpoints.broker_profile == "tansu":
            fixed = connect_reader(settings, endpoints, topics=[topics.behaviour], group=group)
            behaviour = FixedShare(fixed)
        else:
            behaviour = connect_group_reader(
                settings, endpoints, topic=topics.behaviour, group=group
            )
        stack.callback(behaviour.close)
        letters = connect_writer(settings, endpoints)
        stack.callback(letters.close)
        hashes = RedisHashes(endpoints.require_redis())
        stack.callback(hashes.close)
        sinks: PartitionSinks[LoggedEvent] = PartitionSinks(
            lambda at: EventSink(settings.event_log_dir, [at])
        )
        stack.callback(sinks.close)
        patience.meanwhile = behaviour.keep_alive
        stack.callback(patience.forget_meanwhile)
        store = PatientHashes(hashes, patience)
        client = connect(endpoints.require_redis(), timeout_s=_SCAN_TIMEOUT_S)
        stack.callback(client.close)
        yield WorkerRun(
            stream=FeatureStream(kept, store, topics, observer=Checker(kept[-1])),
            store=store,
            writer=writer,
            keys=RedisKeys(client),
            items=items,
            behaviour=behaviour,
            dead_letters=letters,
            sinks=sinks,
            topics=topics,
            clock=now_ms,
            freshness=Freshness(views_of_kinds(kept[-1])),
        )


class _Worker:
    """One worker process: runs that follow on each other until it is asked to stop."""

    def __init__(self, settings: Settings, endpoints: Endpoints, stop: Stop, ready: Path) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._stop = stop
        self._ready = ready
        self._consumed = False
        self._patience = Patience(stop=stop)
        url = endpoints.require_redis()
        self._client = connect(url)
        self._writer = GuardedWriter(url, settings.namespace, pause=self._patience)
        self._alone: Lease | None = None
        if endpoints.broker_profile == "tansu":
            self._alone = Lease(self._client, worker_lease(settings.namespace))

    def work(self) -> None:
        """Apply the log until asked to stop; a broken run is begun anew from what was written.

        Each run loads the plan, which may have been compiled anew.

        Raises:
            ConfigurationError: when the first run cannot begin; later ones are waited for.
        """
        while not self._stop():
            try:
                self._run()
            except (LeaseLostError, StoreChangedError) as error:
                logger.warning("begun anew", extra={"reason": str(error)})
            except (ServerError, redis.RedisError) as error:
                if self._stop():
                    return
                logger.warning("run broken, begun anew", extra={"reason": str(error)})
                time.sleep(_RETRY_S)
            except (ConfigurationError, FeatureError) as error:
                if not self._consumed:
                    raise
                logger.error("run cannot begin, tried again", extra={"reason": str(error)})
                time.sleep(_WAIT_S)
            finally:
                remove_own(self._ready)
                if self._alone is not None:
                    with contextlib.suppress(redis.RedisError):
                        self._alone.release()

    def _run(self) -> None:
        settings = self._settings
        plan = plans.load(settings.state_dir / plans.PLAN_FILE)
        # Beside the views of the plan those that are not retired: a bundle may read them.
        kept = PlanHistory(settings.state_dir).kept(plan.project)
        if self._alone is not None and not self._become_the_only_one(self._alone):
            return
        cold_start = ColdStart(settings, self._endpoints, self._client, self._writer)
        if not cold_start.ensure(kept, stop=self._stop):
            return
        opened = open_run(settings, self._endpoints, kept, self._writer, self._patience)
        with opened as run:
            run.start(self._stop)
            write_ready(self._ready)
            self._consumed = True
            collector.calm()  # what a run keeps for life need not be looked at again
            idle = collector.IdleCollections()
            logger.info("consuming", extra={"plan": plan.schema_hash})
            while not self._stop():
                idle.after(run.step())
                if self._alone is not None:
                    self._alone.check()
                if self._stop.take_store():
                    run.store()
            run.close()

    def _become_the_only_one(self, alone: Lease) -> bool:
        if holder := alone.holder():
            logger.info("standing by", extra={"holder": holder})
            write_ready(self._ready)
        if not alone.acquire(stop=self._stop):
            return False
        if not self._consumed:
            logger.info("this broker's groups cannot rebalance: one worker has all partitions")
        return True

    def close(self) -> None:
        """Let go of the store."""
        self._writer.close()
        self._client.close()


def _show_metrics(settings: Settings, number: int) -> None:
    """Serve the metrics, worker N on the Nth port; one that is taken stops nothing."""
    if settings.worker_metrics_port == 0:
        return
    port = settings.worker_metrics_port + number
    try:
        start_http_server(port, addr=settings.host)
    except (OSError, OverflowError) as error:
        reason = f"port {port}: {error}; set RECSYS_WORKER_METRICS_PORT"
        logger.warning("metrics are not shown", extra={"reason": reason})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker; 0 after a clean stop, 1 with one line when it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m serving.stream_worker")
    parser.add_argument("--number", type=int, default=0, help="tells workers of a machine apart")
    number: int = parser.parse_args(argv).number
    log_to_stderr()
    stop = Stop()
    settings = Settings()
    try:
        endpoints = resolve(settings)
        plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        with current_plan.compiling(settings.state_dir):
            PlanHistory(settings.state_dir).record(plan)
        topics = Topics(namespace=settings.namespace)
        ensure_topics(settings, endpoints, topics.all())
        _show_metrics(settings, number)
        worker = _Worker(settings, endpoints, stop, ready_file(settings, number))
        try:
            worker.work()
        finally:
            worker.close()
    except RecsysError as error:
        logger.error("stream worker stops", extra={"reason": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
