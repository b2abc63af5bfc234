"""The one home of Triton's client: calls of a bundle's model, and loading models.

Models are loaded over gRPC: over Triton's HTTP port it blocks the requests beside it. They are
called over HTTP where the address says at which port (``triton_http.py``), else over gRPC too.
The message of a call is put together as bytes: what says the names and shapes of its tensors is the
same as a call or so before. The generated classes take thrice as long for it, and the client
library's ``InferInput`` objects more than the rest of the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recsys.deadline import Deadline
from recsys.errors import DeadlineExceededError, ServerError, StageError
from recsys.features.protobuf_wire import varint
from recsys.inference.model import NUMPY_DTYPES, Array, Arrays
from recsys.inference.triton_address import open_channel, parse
from recsys.inference.triton_http import TritonHttp
from recsys.models.signature import CREATED_KEYS

_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that is restarted is back within a second; the default back-off goes up to minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_RAW_INPUT = b"\x3a"
"""Tag of ``ModelInferRequest.raw_input_contents``: field 7, bytes."""
_TRITON_DTYPE = {np.dtype(dtype): name for name, dtype in NUMPY_DTYPES.items()}
_TAKEN_FOR_DEAD = "is not healthy"
"""What Triton's Python backend says then (``serving/model_repository/gentle_start.py``)."""

MODEL_PREFIX = "recommend_"


def model_name(bundle_id: str) -> str:
    """Give the name under which Triton serves a bundle: several can be loaded side by side."""
    return f"{MODEL_PREFIX}{bundle_id}"


class TritonServer:
    """One connection to a model server. Belongs to one event loop."""

    def __init__(self, address: str) -> None:
        parsed = parse(address)
        self.address = parsed.target
        self._http = TritonHttp(parsed.host, parsed.http_port) if parsed.http_port else None
        self._channel = open_channel(address, _CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # As the stub's, but for a message that is bytes already.
        self._infer: Any = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def is_ready(self, *, timeout_s: float = 1.0) -> bool:
        """Say whether the server takes requests; never raises."""
        try:
            answer = await self._stub.ServerReady(
                service_pb2.ServerReadyRequest(), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    async def is_model_ready(self, name: str, *, timeout_s: float = 1.0) -> bool:
        """Say whether a model answers requests; never raises."""
        try:
            answer = await self._stub.ModelReady(
                service_pb2.ModelReadyRequest(name=name), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    async def loaded_models(self, *, timeout_s: float = 5.0) -> list[str]:
        """Give the names of the models that answer requests."""
        try:
            answer = await self._stub.RepositoryIndex(
                service_pb2.RepositoryIndexRequest(ready=True), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise self._server_error("list its models", error) from error
        return sorted({model.name for model in answer.models if model.state == "READY"})

    async def load(self, name: str, *, timeout_s: float = 120.0) -> None:
        """Load a model from the repository; nothing happens when it is loaded and unchanged.

        One that Triton took for dead while it loaded, since its process got no core, is loaded once
        more, within ``timeout_s`` again.

        Raises:
            ServerError: with Triton's reason when it cannot.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        try:
            try:
                await self._stub.RepositoryModelLoad(request, timeout=timeout_s)
            except grpc.RpcError as error:
                if _TAKEN_FOR_DEAD not in _details(error):
                    raise
                await self._stub.RepositoryModelLoad(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._server_error(f"load {name}", error) from error

    async def unload(self, name: str, *, timeout_s: float = 60.0) -> None:
        """Unload a model once its running requests are answered; harmless when it is not there."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        try:
            await self._stub.RepositoryModelUnload(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._server_error(f"unload {name}", error) from error

    async def infer(
        self,
        name: str,
        inputs: Arrays,
        outputs: Sequence[str],
        deadline: Deadline,
        *,
        stage: str,
    ) -> Arrays:
        """Run a model once. Arrays given back are read-only views of the received message.

        Raises:
            DeadlineExceededError: when the deadline passed first.
            StageError: with Triton's reason otherwise.
        """
        if self._http is not None:
            return await self._http.infer(name, inputs, tuple(outputs), deadline, stage=stage)
        message = request_bytes(name, inputs, tuple(outputs))
        try:
            answer = await self._infer(message, timeout=deadline.remaining_s())
        except grpc.RpcError as error:
            raise _stage_error(stage, name, self.address, error) from error
        try:
            return {
                output.name: _array(output, raw)
                for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
            }
        except ValueError as error:  # a shape without its data
            raise StageError(
                f"{stage}: {name} answered with broken tensors: {error}", stage=stage
            ) from error

    async def close(self) -> None:
        """Let go of the connections."""
        if self._http is not None:
            self._http.close()
        await self._channel.close()

    def _server_error(self, wanted: str, error: grpc.RpcError) -> ServerError:
        return ServerError(
            f"Triton at {self.address}: wanted to {wanted}, found {_code(error)}: "
            f"{_details(error)}; see `recsys status` and `recsys logs triton`"
        )


def request_bytes(name: str, inputs: Arrays, outputs: tuple[str, ...]) -> bytes:
    """Give a ``ModelInferRequest``: what names and shapes the tensors as last time, then tensors.

    A message of protobuf is its fields one after the other, so parts can be put together.
    """
    shapes = tuple([(key, array.dtype.char, array.shape) for key, array in inputs.items()])
    parts = [_request_head(name, shapes, outputs)]
    for array in inputs.values():
        data = array.tobytes()
        parts += (_RAW_INPUT, varint(len(data)), data)
    return b"".join(parts)


@lru_cache(maxsize=512)
def _request_head(
    name: str, shapes: tuple[tuple[str, str, tuple[int, ...]], ...], outputs: tuple[str, ...]
) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=name)
    for key, char, shape in shapes:
        request.inputs.add(name=key, datatype=_TRITON_DTYPE[np.dtype(char)], shape=shape)
    for key in outputs:
        request.outputs.add(name=key)
    head: bytes = request.SerializeToString()
    return head


_RECOMMEND_OUTPUTS = (
    "item_index", "rank_outcome", "score", "objective_score", "source_score", "item_activity",
    "item_age_ms",
)  # fmt: skip
_RANK_OUTPUTS = ("score", "objective_score", "source_score", "item_activity", "item_age_ms")
_SIMILAR_OUTPUTS = ("similar_index", "score")


def _with_keys(inputs: Arrays, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Ask for the keys of created items where the caller knows of such."""
    return (*outputs, CREATED_KEYS) if CREATED_KEYS in inputs else outputs


class TritonModel:
    """See ``Model``: a bundle loaded in a model server."""

    def __init__(self, server: TritonServer, bundle_id: str) -> None:
        self._server = server
        self.name = model_name(bundle_id)

    async def recommend(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """See ``Model.recommend``."""
        return await self._server.infer(
            self.name, inputs, _with_keys(inputs, _RECOMMEND_OUTPUTS), deadline, stage="recommend"
        )

    async def rank(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """See ``Model.rank``."""
        return await self._server.infer(self.name, inputs, _RANK_OUTPUTS, deadline, stage="rank")

    async def similar(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """See ``Model.similar``."""
        return await self._server.infer(
            self.name, inputs, _with_keys(inputs, _SIMILAR_OUTPUTS), deadline, stage="similar"
        )

    async def is_ready(self) -> bool:
        """See ``Model.is_ready``."""
        return await self._server.is_model_ready(self.name)


def _array(output: Any, raw: bytes) -> Array:
    dtype = NUMPY_DTYPES[output.datatype]
    return np.frombuffer(raw, dtype=dtype).reshape(tuple(output.shape))


def _stage_error(stage: str, name: str, address: str, error: grpc.RpcError) -> StageError:
    code = _code(error)
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(f"{stage}: Triton did not answer in time", stage=stage)
    return StageError(
        f"{stage}: Triton at {address} could not answer with {name}: {code}: {_details(error)}",
        stage=stage,
    )


def _code(error: grpc.RpcError) -> str:
    return str(error.code().name) if hasattr(error, "code") else type(error).__name__


def _details(error: grpc.RpcError) -> str:
    return str(error.details()) if hasattr(error, "details") else str(error)
