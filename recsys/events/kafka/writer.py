"""Appending to Kafka: idempotent, acknowledged by all in-sync replicas, bounded in memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from recsys.endpoints import Endpoints
from recsys.errors import ServerError
from recsys.events.kafka.config import (
    MAX_RECORD_BYTES,
    WriterConfig,
    client_options,
    closed_on_failure,
    explained,
    explanation,
    is_tansu,
)
from recsys.events.partitioning import partition_of
from recsys.settings import Settings

_SWEEP_EVERY = 256
"""Look for acknowledged records once per this many appended ones."""


def connect_writer(
    settings: Settings,
    endpoints: Endpoints,
    *,
    config: WriterConfig = WriterConfig(),  # noqa: B008  frozen
    timeout_s: float = 30.0,
) -> KafkaEventWriter:
    """Give a writer to the cluster in force.

    Raises:
        ServerError: when no broker answers within ``timeout_s``.
    """
    tansu = is_tansu(endpoints)
    options = client_options(settings, endpoints, timeout_ms=int(timeout_s * 1000))
    wanted = f"connect a writer within {timeout_s:g} s"
    with explained(endpoints, wanted), closed_on_failure() as client:
        producer = KafkaProducer(
            **options,
            kafka_client=client,
            acks="all",
            enable_idempotence=not tansu,
            # Without idempotence a retry could overtake the request after it.
            max_in_flight_requests_per_connection=1 if tansu else 5,
            linger_ms=max(config.linger_ms, 20) if tansu else config.linger_ms,
            batch_size=config.batch_bytes,
            compression_type=config.compression,
            max_request_size=MAX_RECORD_BYTES,
            delivery_timeout_ms=config.delivery_timeout_ms,
            request_timeout_ms=min(10_000, config.delivery_timeout_ms // 2),
            max_block_ms=config.topic_timeout_ms,
            metrics_enabled=False,
            allow_auto_create_topics=False,
        )
    return KafkaEventWriter(producer, endpoints, config)


class KafkaEventWriter:
    """See ``EventWriter``. Thread-safe."""

    def __init__(self, producer: Any, endpoints: Endpoints, config: WriterConfig) -> None:
        self._producer = producer
        self._endpoints = endpoints
        self._config = config
        self._lock = threading.Lock()
        self._pending: deque[tuple[Any, int]] = deque()
        """Futures and sizes of records not known to be acknowledged, in order of sending."""
        self._pending_bytes = 0
        self._num_appended = 0
        self._num_failed = 0
        self._last_error: BaseException | None = None
        self._heard = threading.local()
        """``num_failed`` when this thread last flushed: each thread hears of every failure once."""
        self._num_partitions: dict[str, int] = {}
        self._closed = False

    def append(self, topic: str, key: bytes, value: bytes) -> None:
        """See ``EventWriter.append``."""
        self._send(topic, key, value)

    def append_all(
        self, records: Iterable[tuple[str, bytes, bytes]], timeout_s: float = 30.0
    ) -> None:
        """See ``EventWriter.append_all``."""
        futures = [self._send(topic, key, value) for topic, key, value in records]
        deadline = time.monotonic() + timeout_s
        wanted = f"have {len(futures)} records acknowledged within {timeout_s:g} s"
        with explained(self._endpoints, wanted):
            self._producer.flush(timeout_s)
            for future in futures:
                future.get(timeout=max(0.0, deadline - time.monotonic()))

    def append_timed(
        self, records: Iterable[tuple[str, bytes, bytes]], timeout_s: float = 30.0
    ) -> list[int]:
        """Append, and give when the log received each record, epoch ms by its clock.

        Raises:
            ServerError: when they are not acknowledged within ``timeout_s``.
        """
        futures = [self._send(topic, key, value) for topic, key, value in records]
        deadline = time.monotonic() + timeout_s
        wanted = f"have {len(futures)} records acknowledged within {timeout_s:g} s"
        with explained(self._endpoints, wanted):
            self._producer.flush(timeout_s)
            return [
                int(future.get(timeout=max(0.0, deadline - time.monotonic())).timestamp)
                for future in futures
            ]

    def flush(self, timeout_s: float = 30.0) -> None:
        """See ``EventWriter.flush``."""
        with explained(self._endpoints, f"have all records acknowledged within {timeout_s:g} s"):
            self._producer.flush(timeout_s)
        with self._lock:
            self._sweep()
            failed, error = self._num_failed, self._last_error
        new_failures = failed - getattr(self._heard, "num_failed", 0)
        self._heard.num_failed = failed
        if new_failures:
            raise ServerError(
                f"Kafka at {self._endpoints.kafka_bootstrap_servers}: wanted all records "
                f"acknowledged, found {new_failures} refused (last: {error!r}); send the whole "
                "batch again, the same event ids make that harmless"
            ) from error

    def close(self) -> None:
        """See ``EventWriter.close``."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._producer.close(timeout=5)

    def abandon(self) -> None:
        """See ``EventWriter.abandon``."""
        self._closed = True
        # The client's own close begins with a flush, and gives up closing when that fails.
        with suppress(Exception):
            self._producer._sender.force_close()
        with suppress(Exception):
            self._producer.close(timeout=0)

    def _send(self, topic: str, key: bytes, value: bytes) -> Any:
        if self._closed:
            raise ServerError("this event writer is closed; connect another")
        num_partitions = self._num_partitions.get(topic) or self._count_partitions(topic)
        try:
            # The partition is given because the client's own hash of a key costs 3 µs.
            future = self._producer.send(
                topic, value=value, key=key, partition=partition_of(key, num_partitions)
            )
        except (KafkaError, ValueError, TypeError) as error:
            wanted = f"append {len(value)} bytes to {topic!r}"
            raise explanation(self._endpoints, wanted, error) from error
        with self._lock:
            self._pending.append((future, len(key) + len(value)))
            self._pending_bytes += len(key) + len(value)
            self._num_appended += 1
            if self._num_appended % _SWEEP_EVERY and self._pending_bytes < (
                self._config.max_buffered_bytes
            ):
                return future
            self._sweep()
            oldest = self._oldest_in_the_way()
        while oldest is not None:
            self._wait_for(oldest)
            with self._lock:
                self._sweep()
                oldest = self._oldest_in_the_way()
        return future

    def _count_partitions(self, topic: str) -> int:
        """Ask once per topic. Adding partitions to a live topic would break key order anyway."""
        with explained(self._endpoints, f"find topic {topic!r} (ensure_topics creates it)"):
            partitions = self._producer.partitions_for(topic)
            if not partitions:
                raise ValueError("no such topic")
        self._num_partitions[topic] = len(partitions)
        return len(partitions)

    def _sweep(self) -> None:
        """Forget what is acknowledged and count what failed. Called under the lock."""
        pending = self._pending
        while pending and pending[0][0].is_done:
            future, size = pending.popleft()
            self._pending_bytes -= size
            if future.exception is not None:
                self._num_failed += 1
                self._last_error = future.exception

    def _oldest_in_the_way(self) -> Any:
        """Give the future to wait for when the buffer is full, else ``None``."""
        full = (
            len(self._pending) >= self._config.max_buffered_records
            or self._pending_bytes >= self._config.max_buffered_bytes
        )
        return self._pending[0][0] if full else None

    def _wait_for(self, future: Any) -> None:
        timeout_s = self._config.delivery_timeout_ms / 1000
        try:
            future.get(timeout=timeout_s)
        except KafkaError as error:
            if not future.is_done:
                raise ServerError(
                    f"Kafka at {self._endpoints.kafka_bootstrap_servers}: wanted room in the "
                    f"buffer of {self._config.max_buffered_records} records within "
                    f"{timeout_s:g} s, found it full; see `recsys status`"
                ) from error
            # It failed: the sweep counts it and the next flush tells.
