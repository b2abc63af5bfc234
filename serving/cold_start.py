"""Before a worker begins: a store to go on from, made anew when it was lost.

An online store without progress is new or was emptied. When the event log holds events of the
namespace, all features are computed from it first (``serving/backfill.py``, in a process of its own
whose memory is given back), and the stream goes on from where it ends. Without one, the stream
begins where Kafka does. One worker does it, under a lease, while the others wait.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import redis

from recsys.endpoints import Endpoints
from recsys.errors import ConfigurationError, ServerError
from recsys.events.log_files import committed_ranges
from recsys.events.topics import Topics
from recsys.features.entities import layout_of
from recsys.features.guarded_writer import GuardedWriter
from recsys.features.lease import Lease, rebuild_lease
from recsys.features.plan import Plan
from recsys.features.progress import HalfBackfillError, StoredProgress
from recsys.features.redis_hashes import RedisHashes
from recsys.settings import Settings

logger = logging.getLogger("recsys.cold_start")

_POLL_S = 0.5


class ColdStart:
    """Sees to it that the store is whole."""

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        client: redis.Redis,
        writer: GuardedWriter,
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._writer = writer
        self._lease = Lease(client, rebuild_lease(settings.namespace))

    def ensure(self, plan: Sequence[Plan], *, stop: Callable[[], bool]) -> bool:
        """Return once the store is whole; False when asked to stop first.

        Raises:
            ConfigurationError: when the features cannot be computed from the event log.
        """
        store = RedisHashes(self._endpoints.require_redis())
        said = False
        try:
            while not stop():
                if self._is_whole(store, plan):
                    return True
                if not self._lease.try_acquire():
                    if not said:
                        logger.info("waiting for all features to be computed by another")
                        said = True
                    time.sleep(_POLL_S)
                    continue
                try:
                    # Whoever held the lease may just have finished.
                    if not self._is_whole(store, plan):
                        self._make(plan, stop)
                finally:
                    self._lease.release()
            return False
        finally:
            store.close()

    def _is_whole(self, store: RedisHashes, plan: Sequence[Plan]) -> bool:
        if not self._writer.begin():
            return False
        try:
            StoredProgress(store, self._settings.namespace).kept(layout_of(plan))
        except HalfBackfillError:
            return False
        return True

    def _make(self, plan: Sequence[Plan], stop: Callable[[], bool]) -> None:
        topics = Topics(namespace=self._settings.namespace)
        folder = self._settings.event_log_dir
        logged = any(
            next(iter(committed_ranges(folder, topic)), None)
            for topic in (topics.items, topics.behaviour)
        )
        if not logged and self._writer.begin():
            raise ConfigurationError(
                "wanted whole features, found half a backfill and no event log to compute them "
                f"from in {folder}; run `recsys backfill` where the event log is"
            )
        if not logged:
            logger.info("an empty online store: begun where the broker's log does")
            self._writer.found(layout_of(plan))
            return
        logger.warning("an empty online store: features are computed from the event log")
        self._lease.release()  # the backfill takes it; if another is faster, it does the work
        self._backfill(stop)

    def _backfill(self, stop: Callable[[], bool]) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.backfill"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            while process.poll() is None:
                if stop():
                    raise ServerError("asked to stop while the features were computed")
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.terminate()
            said = process.communicate()[1].decode(errors="replace").strip()
        if process.returncode != 0:
            raise ConfigurationError(f"wanted all features from the event log, found: {said}")
