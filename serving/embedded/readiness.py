"""Is a broker ready? Asked of Kafka and Tansu alike, through the one client of the event log."""

from __future__ import annotations

import socket

from recsys.endpoints import BrokerProfile, Endpoints
from recsys.errors import ServerError
from recsys.events.kafka import check_broker
from recsys.settings import Settings
from serving.embedded.launch import Missing

_CONNECT_TIMEOUT_S = 1.0
_ANSWER_TIMEOUT_S = 5.0


def broker_missing(address: str, profile: BrokerProfile, settings: Settings) -> Missing | None:
    """Ask for the cluster's metadata: ``None`` when it answers, else why not.

    ``settings`` carry the user and certificates of a cluster that wants them.

    Raises:
        OSError: nobody listens there. Found out by connecting first: the client itself would knock
            until its own patience ends, with growing pauses, while the broker is up already.
    """
    host, _, port = address.split(",")[0].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    endpoints = Endpoints(kafka_bootstrap_servers=address, broker_profile=profile)
    try:
        check_broker(settings, endpoints, timeout_s=_ANSWER_TIMEOUT_S)
    except ServerError as error:
        return str(error)
    return None
