"""Past answers are found by their id: in files by date, and in Kafka what is in no file yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.endpoints import BrokerProfile, Endpoints
from recsys.events.kafka import connect_writer, ensure_topics
from recsys.feedback.exposure import Exposure, encode_exposure
from recsys.feedback.request_ids import made_ms, new_request_id
from recsys.replay.find import find_exposure
from recsys.settings import Settings
from tests.feedback.test_exposure_log import T0_MS, exposure, write

NOWHERE = Endpoints()
"""Files alone are looked at: asking Kafka fails."""


def test_ids_say_when_they_were_made_and_are_in_order() -> None:
    ids = [new_request_id(T0_MS + n) for n in range(50)]
    assert ids == sorted(ids)
    assert [made_ms(one) for one in ids] == [T0_MS + n for n in range(50)]
    assert len({new_request_id(T0_MS) for _ in range(1_000)}) == 1_000
    for other in ("", "r1", "5b0c6f0c8f8d4b0f9e3f0a6b7c1d2e3f", new_request_id(T0_MS)[:31]):
        assert made_ms(other) is None


def test_the_first_exposure_of_a_request_is_found_in_files(tmp_path: Path) -> None:
    settings = Settings(RECSYS_STATE_DIR=tmp_path, RECSYS_NAMESPACE="shop")
    own = new_request_id(T0_MS + 77)
    tensors = Exposure.tensors({"item_activity": np.ones((2, 3), np.float32)})
    wanted = exposure(0, request_id=own, now_ms=T0_MS + 80, replay=tensors, degraded="late")
    sent = [
        *map(exposure, range(5)), wanted, exposure(3, bundle="sent again"),
        exposure(3, now_ms=exposure(3).now_ms + 1, bundle="later"),
    ]  # fmt: skip
    write(settings.event_log_dir, [encode_exposure(one) for one in sent])
    assert find_exposure(settings, NOWHERE, own) == wanted
    found = find_exposure(settings, NOWHERE, "r3")
    assert found == exposure(3), "a caller's id says nothing of time; the first one counts"


@pytest.mark.servers
def test_what_is_in_no_file_yet_is_found_in_kafka(
    broker: tuple[str, BrokerProfile], namespace: str, tmp_path: Path
) -> None:
    settings = Settings(RECSYS_STATE_DIR=tmp_path, RECSYS_NAMESPACE=namespace, RECSYS_PARTITIONS=2)
    endpoints = Endpoints(kafka_bootstrap_servers=broker[0], broker_profile=broker[1])
    topic = f"{namespace}.exposures"
    ensure_topics(settings, endpoints, [topic])
    assert find_exposure(settings, endpoints, "r1") is None
    writer = connect_writer(settings, endpoints)
    some = [exposure(n, user=f"user-{n}") for n in range(20)]
    writer.append_all((topic, one.user_id.encode(), encode_exposure(one)) for one in some)
    writer.append_all([(topic, b"k", b"no exposure, though it names r13")])
    writer.close()
    assert find_exposure(settings, endpoints, "r13") == some[13]
    assert find_exposure(settings, endpoints, "r99") is None
