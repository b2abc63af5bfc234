"""How our Kafka clients behave, and what the developer's broker (Tansu) needs differently.

Tansu speaks Kafka's protocol but not all of its behaviour: an idempotent producer never recovers
from its restart, a fetch sleeps half of its longest wait, and end offsets stop at the last batch's
first record. Each difference is handled where ``is_tansu`` is asked, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kafka.errors import (
    InvalidRecordError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from kafka.net.compat import KafkaNetClient

from recsys.endpoints import Endpoints
from recsys.errors import RecordRefusedError, ServerError
from recsys.settings import Settings

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Largest record of a topic we create: a dead letter holds a foreign 1 MB record in base64."""


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """Batching and bounds of a writer."""

    linger_ms: int = 20
    """How long a batch waits for more records; ``flush`` and ``append_all`` do not wait."""
    batch_bytes: int = 64 * 1024
    """Larger batches cost less per record; 64 KiB holds some 350 events."""
    compression: str | None = "lz4"
    """JSON shrinks four- to sixfold, for half a microsecond of CPU per event."""
    topic_timeout_ms: int = 5_000
    """How long the first record of a topic waits for news of it: it may be just made."""
    delivery_timeout_ms: int = 60_000
    """After this a record that could not be delivered counts as failed."""
    max_buffered_records: int = 50_000
    """``append`` waits when this many are not acknowledged. Bounds memory (about 1 KB each)."""
    max_buffered_bytes: int = 64 * 1024 * 1024
    """The same bound in bytes of keys and values."""


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Waiting and bounds of a reader."""

    fetch_max_wait_ms: int = 50
    """How long the broker may hold a fetch when there is nothing; new records end it at once.
    Questions about offsets come after it on the same connection and wait as long."""
    max_partition_bytes: int = 1024 * 1024
    """Buffered per partition ahead of the reader."""
    start_timeout_ms: int = 30_000
    """For finding the broker, the partitions and the stored positions."""


FOLLOWING = ReaderConfig(fetch_max_wait_ms=250)
"""For who follows the end of a topic and hardly asks for offsets: a fetch in vain costs the client
and the broker half a millisecond each, all day."""
_TANSU_WAIT_MS = 50


def _fetch_wait_ms(config: ReaderConfig, endpoints: Endpoints) -> int:
    """Give how long this broker may hold a fetch."""
    wanted = config.fetch_max_wait_ms
    return min(wanted, _TANSU_WAIT_MS) if is_tansu(endpoints) else wanted


def consumer_options(
    settings: Settings, endpoints: Endpoints, group: str, config: ReaderConfig
) -> dict[str, Any]:
    """Give what every reader's client is told: we keep the positions, and no one jumps.

    Jumping over deleted records in silence is not ours to do: ``poll`` raises.
    """
    return client_options(settings, endpoints, timeout_ms=config.start_timeout_ms) | {
        "group_id": group,
        "enable_auto_commit": False,
        "metrics_enabled": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "fetch_max_wait_ms": _fetch_wait_ms(config, endpoints),
        "max_partition_fetch_bytes": config.max_partition_bytes,
    }


def is_tansu(endpoints: Endpoints) -> bool:
    """Say whether the broker is the developer's one."""
    return endpoints.broker_profile == "tansu"


_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


def client_options(settings: Settings, endpoints: Endpoints, *, timeout_ms: int) -> dict[str, Any]:
    """Give the options every client shares: addresses, security, patience.

    Raises:
        ServerError: when there is no address, or the security protocol is none of Kafka's.
    """
    if settings.kafka_security_protocol not in _PROTOCOLS:
        raise ServerError(
            f"KAFKA_SECURITY_PROTOCOL: wanted one of {', '.join(_PROTOCOLS)}, found "
            f"{settings.kafka_security_protocol!r}"
        )
    options: dict[str, Any] = {
        "bootstrap_servers": [a.strip() for a in endpoints.require_kafka().split(",")],
        "client_id": settings.namespace,
        "security_protocol": settings.kafka_security_protocol,
        "bootstrap_timeout_ms": timeout_ms,
        # A broker that restarts is back within seconds; do not back off beyond that.
        "reconnect_backoff_max_ms": 1_000,
    }
    if settings.kafka_sasl_mechanism:
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password
    if settings.kafka_security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_check_hostname"] = settings.kafka_ssl_check_hostname
        files = {
            "ssl_cafile": settings.kafka_ssl_cafile,
            "ssl_certfile": settings.kafka_ssl_certfile,
            "ssl_keyfile": settings.kafka_ssl_keyfile,
            "ssl_password": settings.kafka_ssl_password,
        }
        options |= {name: value for name, value in files.items() if value}
    return options


_RECORDS_FAULT = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidRecordError)
"""What the broker, or the client for it, says of a record that it will never take."""


def explanation(endpoints: Endpoints, wanted: str, error: BaseException) -> ServerError:
    """Give one line: what was wanted, what was found and what to do."""
    name = type(error).__name__
    found = f"{name}: {str(error).removeprefix(f'{name}: ') or 'no answer'}"
    kind = RecordRefusedError if isinstance(error, _RECORDS_FAULT) else ServerError
    return kind(
        f"Kafka at {endpoints.kafka_bootstrap_servers}: wanted to {wanted}, found {found}; see "
        "`recsys status`, KAFKA_BOOTSTRAP_SERVERS and the KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_* "
        "and KAFKA_SSL_* settings"
    )


@contextmanager
def explained(endpoints: Endpoints, wanted: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except (KafkaError, OSError, ValueError, TypeError, AssertionError) as error:
        raise explanation(endpoints, wanted, error) from error


@contextmanager
def closed_on_failure() -> Iterator[Callable[..., Any]]:
    """Give what makes the network half of a client; it is closed when the block fails.

    The client's constructors leave sockets behind, and the administrator's a thread, when no broker
    answers: one set for each try while a broker is away.
    """
    made: list[Any] = []

    def make(**options: Any) -> Any:
        client = KafkaNetClient(**options)
        made.append(client)
        return client

    try:
        yield make
    except BaseException:
        for client in made:
            with suppress(Exception):
                client.close()
        raise
