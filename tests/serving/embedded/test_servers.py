"""Each embedded server starts, answers in its own protocol and keeps the settings we rely on."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import grpc
import numpy as np
import pytest
import redis
import tritonclient.grpc as triton_grpc

from recsys.endpoints import BrokerProfile, Endpoints
from recsys.errors import ServerError
from recsys.events.kafka import (
    connect_reader,
    connect_writer,
    ensure_topics,
    partitions_of,
)
from recsys.events.topics import Topics
from recsys.settings import Settings
from serving.embedded import kafka
from serving.embedded.launch import Launch
from serving.embedded.readiness import broker_missing
from serving.embedded.redis import ping, redis_launch
from serving.embedded.triton import server_missing, triton_launch
from tests.servers import TritonServer, free_ports

pytestmark = pytest.mark.servers

OwnServer = Callable[[Launch], "Popen[bytes]"]


def test_redis_keeps_feature_vectors_in_listpacks(redis_url: str, namespace: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset(namespace, "vector", b"x" * 1000)
        assert client.object("encoding", namespace) == b"listpack"
        client.hset(namespace, "vector", b"x" * 2000)
        assert client.object("encoding", namespace) == b"hashtable"


def test_redis_remembers_what_it_acknowledged_when_killed(
    own_settings: Settings, own_server: OwnServer
) -> None:
    launch = redis_launch(own_settings)
    keeper = own_server(launch)
    with redis.Redis.from_url(launch.address) as client:
        client.set("answer", "42")
    keeper.kill()  # the kernel ends the server with its keeper
    keeper.wait()
    own_server(launch)
    with redis.Redis.from_url(launch.address) as client:
        assert client.get("answer") == b"42"


@pytest.mark.parametrize("profile", ["kafka", "tansu"])
def test_broker_carries_a_record(
    profile: BrokerProfile, own_settings: Settings, request: pytest.FixtureRequest
) -> None:
    bootstrap = request.getfixturevalue(f"{profile}_bootstrap")
    endpoints = Endpoints(kafka_bootstrap_servers=bootstrap, broker_profile=profile)
    topic = Topics(namespace=own_settings.namespace).items
    ensure_topics(own_settings, endpoints, [topic])
    with contextlib.closing(connect_writer(own_settings, endpoints)) as writer:
        writer.append(topic, b"key", b"value")
        writer.flush()
    reader = connect_reader(own_settings, endpoints, topics=[topic], group=own_settings.namespace)
    with contextlib.closing(reader):
        assert [record.value for record in reader.poll(timeout_ms=5_000, max_records=9)] == [
            b"value"
        ]


def test_kafka_refuses_a_misspelt_topic(kafka_bootstrap: str, own_settings: Settings) -> None:
    endpoints = Endpoints(kafka_bootstrap_servers=kafka_bootstrap, broker_profile="kafka")
    with pytest.raises(ServerError):
        partitions_of(own_settings, endpoints, ["misspelt"])


def test_nobody_answering_is_not_ready(own_settings: Settings) -> None:
    port = free_ports(1)
    with pytest.raises(OSError, match="refused"):
        ping("127.0.0.1", port)
    with pytest.raises(OSError, match="refused"):
        broker_missing(f"127.0.0.1:{port}", "kafka", own_settings)
    assert server_missing(f"127.0.0.1:{port}") == grpc.StatusCode.UNAVAILABLE.name


_CONFIG = """
name: "%s"
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [-1] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [-1] }]
instance_group [{ kind: KIND_CPU }]
"""

_DOUBLING_MODEL = """
import sys
sys.path[:0] = {path!r}
import torch
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, "x").to_dlpack())
            y = pb_utils.Tensor.from_dlpack("y", (x * 2).contiguous())
            answers.append(pb_utils.InferenceResponse([y]))
        return answers
"""


def _answer(url: str, model: str) -> list[float]:
    with triton_grpc.InferenceServerClient(url) as client:
        client.load_model(model)
        x = triton_grpc.InferInput("x", [1, 3], "FP32")
        x.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))
        answer = client.infer(model, [x]).as_numpy("y")
        client.unload_model(model)
    assert answer is not None
    return [float(value) for value in answer.ravel()]


# Without torch it loads at once.
_IDENTITY_MODEL = """
import sys
sys.path[:0] = {path!r}
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x")
            answers.append(
                pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("y", x.to_dlpack())])
            )
        return answers
"""


def _write_model(repository: Path, name: str, code: str) -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(code)
    (folder.parent / "config.pbtxt").write_text(_CONFIG % name)


def test_triton_runs_a_torch_model_through_dlpack(triton: TritonServer, namespace: str) -> None:
    _write_model(triton.model_repository, namespace, _DOUBLING_MODEL.format(path=sys.path))
    assert _answer(triton.grpc_url, namespace) == [2.0, 4.0, 6.0]


def test_triton_starts_again_after_a_kill(
    own_settings: Settings, own_server: OwnServer, namespace: str
) -> None:
    launch = triton_launch(own_settings, lambda _: None)
    _write_model(own_settings.model_repository, namespace, _IDENTITY_MODEL.format(path=sys.path))
    keeper = own_server(launch)
    assert _answer(launch.address, namespace) == [1.0, 2.0, 3.0]
    keeper.kill()
    keeper.wait()
    own_server(launch)
    assert _answer(launch.address, namespace) == [1.0, 2.0, 3.0]


def test_a_kafka_whose_id_begins_with_a_dash_is_formatted(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_dash = uuid.UUID(bytes=b"\xfb" * 16)
    monkeypatch.setattr(kafka.uuid, "uuid4", lambda: with_a_dash)
    launch = kafka.kafka_launch(own_settings, lambda _line: None)
    assert launch.before_start is not None
    launch.before_start()
    assert (own_settings.state_dir / "kafka" / "formatted").read_text().startswith("-")
