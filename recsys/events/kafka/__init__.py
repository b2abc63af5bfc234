"""The event log on Kafka: the one place that imports a Kafka client.

``connect_writer`` and ``connect_reader`` give the two halves of the protocol in ``events/log.py``;
``ensure_topics``, ``latest_positions``, ``retention_of`` and ``check_broker`` are what a process
asks the cluster itself.
"""

from recsys.events.kafka.admin import (
    BrokerHealth,
    Retention,
    check_broker,
    delete_topics,
    ensure_topics,
    latest_positions,
    partitions_of,
    retention_of,
)
from recsys.events.kafka.config import FOLLOWING, ReaderConfig, WriterConfig
from recsys.events.kafka.group import GroupConfig, KafkaGroupReader, connect_group_reader
from recsys.events.kafka.reader import KafkaEventReader, connect_reader
from recsys.events.kafka.writer import KafkaEventWriter, connect_writer

__all__ = [
    "FOLLOWING",
    "BrokerHealth",
    "GroupConfig",
    "KafkaEventReader",
    "KafkaEventWriter",
    "KafkaGroupReader",
    "ReaderConfig",
    "Retention",
    "WriterConfig",
    "check_broker",
    "connect_group_reader",
    "connect_reader",
    "connect_writer",
    "delete_topics",
    "ensure_topics",
    "latest_positions",
    "partitions_of",
    "retention_of",
]
