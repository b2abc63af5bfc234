"""The exposure log: what the API answered, from Kafka to the Parquet log.

Usage::

    python -m serving.exposure_worker

A process of its own, so that a burst of answers never delays features. Several may run; the
consumer group shares the partitions out. Writes ``<run_dir>/exposures.ready`` once it consumes,
logs to stderr, writes its buffers on SIGUSR1, stops cleanly on SIGTERM or SIGINT.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator

from recsys.endpoints import Endpoints, resolve
from recsys.errors import RecsysError, ServerError
from recsys.events.kafka import connect_group_reader, connect_reader, ensure_topics
from recsys.events.log import FixedShare, SharedReader
from recsys.events.sink import LogSink, SinkConfig
from recsys.events.topics import Topics
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.worker_files import exposures_ready_file
from recsys.feedback.exposure import Exposure
from recsys.feedback.exposure_log import EXPOSURES
from recsys.feedback.exposure_run import ExposureRun
from recsys.settings import Settings
from serving.worker_process import Stop, log_to_stderr, remove_own, write_ready

logger = logging.getLogger("recsys.exposure_worker")

_RETRY_S = 0.5
"""Pause before a broken run is begun anew: Kafka may just be restarting."""
_SINK = SinkConfig(max_bytes=16 * 1024 * 1024)
"""An exposure is some 5 KB, its objects as much again."""


@contextlib.contextmanager
def open_run(settings: Settings, endpoints: Endpoints) -> Iterator[ExposureRun]:
    """Connect what one run needs; at the end write what is buffered and let go."""
    topic = Topics(namespace=settings.namespace).exposures
    group = f"{settings.namespace}.exposures"
    with contextlib.ExitStack() as stack:
        reader: SharedReader
        if endpoints.broker_profile == "tansu":
            fixed = connect_reader(settings, endpoints, topics=[topic], group=group)
            reader = FixedShare(fixed)
        else:
            reader = connect_group_reader(settings, endpoints, topic=topic, group=group)
        stack.callback(reader.close)
        sinks: PartitionSinks[Exposure] = PartitionSinks(
            lambda at: LogSink(settings.event_log_dir, [at], EXPOSURES, config=_SINK)
        )
        stack.callback(sinks.close)
        yield ExposureRun(reader, sinks)


def work(settings: Settings, endpoints: Endpoints, stop: Stop) -> None:
    """Log exposures until asked to stop; a broken run is begun anew from what is on disk."""
    ready = exposures_ready_file(settings)
    while not stop():
        try:
            with open_run(settings, endpoints) as run:
                is_ready = False
                while not stop():
                    run.step()
                    if run.has_joined and not is_ready:
                        write_ready(ready)
                        is_ready = True
                    if stop.take_store():
                        run.store()
        except ServerError as error:
            if stop():
                return
            logger.warning("run broken, begun anew", extra={"reason": str(error)})
            time.sleep(_RETRY_S)
        finally:
            remove_own(ready)


def main() -> int:
    """Run; 0 after a clean stop, 1 with one line when it cannot run."""
    log_to_stderr()
    stop = Stop()
    settings = Settings()
    try:
        endpoints = resolve(settings)
        ensure_topics(settings, endpoints, Topics(namespace=settings.namespace).all())
        work(settings, endpoints, stop)
    except RecsysError as error:
        logger.error("exposure log stops", extra={"reason": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
