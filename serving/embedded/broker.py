"""Chooses the embedded broker: Apache Kafka, or Tansu where Kafka cannot be had."""

from __future__ import annotations

from recsys.endpoints import BrokerProfile
from recsys.errors import ServerError
from recsys.settings import Settings
from serving.embedded.folder import Report
from serving.embedded.kafka import kafka_launch
from serving.embedded.launch import Launch
from serving.embedded.tansu import tansu_launch


def broker_launch(settings: Settings, report: Report) -> tuple[Launch, BrokerProfile]:
    """Give the broker ``RECSYS_BROKER`` names; unset: Apache Kafka, then Tansu, saying why.

    Raises:
        ServerError: none of the allowed ones can be had, or ``KAFKA_HOME`` is wrong.
    """
    if settings.broker == "tansu":
        return tansu_launch(settings, report), "tansu"
    try:
        return kafka_launch(settings, report), "kafka"
    except ServerError as error:
        if settings.broker == "kafka" or settings.kafka_home is not None:
            raise
        report(f"falling back to Tansu: {error}")
        return tansu_launch(settings, report), "tansu"
