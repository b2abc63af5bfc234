"""Calls of a model over Triton's HTTP port: a head in JSON, then the tensors as they are.

What gRPC's client spends on a call, in threads that hand it to one another, is as much as all else
that an API process does for a request. A call here is one write and one read on a connection of the
event loop's own.

Source: Triton Inference Server, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, cast
from urllib.parse import quote

import httptools
import msgspec
import numpy as np

from recsys.deadline import Deadline
from recsys.errors import DeadlineExceededError, StageError
from recsys.inference.model import NUMPY_DTYPES, Array, Arrays
from recsys.models.signature import DType

MAX_CONNECTIONS = 64
"""Calls beyond it wait for their turn: those of a bundle's batches are one or two at a time."""
_TRITON_DTYPE = {np.dtype(dtype): name for name, dtype in NUMPY_DTYPES.items()}
_HEAD_SIZE = b"inference-header-content-length"


class _Size(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    datatype: DType
    shape: tuple[int, ...]
    parameters: _Size


class _Head(msgspec.Struct):
    outputs: list[_Output]


class _Refusal(msgspec.Struct):
    error: str


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_Shapes = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, type as NumPy's letter, and shape of each tensor."""


class _Reply(NamedTuple):
    status: int
    head_size: int
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection; serves one call at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[_Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._head_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc or ConnectionResetError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(ConnectionError(f"the answer is not HTTP: {error}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _HEAD_SIZE:
            self._head_size = int(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        parser, body, head_size = self._parser, b"".join(self._body), self._head_size
        self._parser = httptools.HttpResponseParser(self)
        self._body, self._head_size = [], 0
        if not parser.should_keep_alive():
            self.is_open = False
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(_Reply(parser.get_status_code(), head_size, body))

    def ask(self, message: Sequence[bytes]) -> asyncio.Future[_Reply]:
        """Send; the answer comes with the future."""
        assert self._transport is not None
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(b"".join(message))
        return waiter

    def end(self, error: Exception) -> None:
        """Close, and give who waits the error."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)


class TritonHttp:
    """Connections to one model server. Belongs to one event loop."""

    def __init__(self, host: str, port: int, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self.address = f"{host}:{port}"
        self._host, self._port = host, port
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(max_connections)

    async def infer(
        self,
        name: str,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: Deadline,
        *,
        stage: str,
    ) -> Arrays:
        """Run a model once. See ``TritonServer.infer``."""
        shapes = tuple([(key, array.dtype.char, array.shape) for key, array in inputs.items()])
        message = [_request_head(self.address, name, shapes, outputs)]
        message += [array.tobytes() for array in inputs.values()]
        try:
            async with self._places:
                reply = await self._exchange(message, deadline)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"{stage}: Triton did not answer in time", stage=stage
            ) from error
        except OSError as error:
            raise self._failure(stage, name, f"{type(error).__name__}: {error}") from error
        try:
            if reply.status == 200:
                return _arrays(reply)
            why = _decode_refusal(reply.body).error
        except ValueError as error:  # no JSON of this kind, or a shape without its data
            raise self._failure(stage, name, f"a broken answer: {error}") from error
        raise self._failure(stage, name, f"HTTP {reply.status}: {why}")

    async def _exchange(self, message: Sequence[bytes], deadline: Deadline) -> _Reply:
        loop = asyncio.get_running_loop()
        while True:
            connection = self._idle.pop() if self._idle else None
            is_new = connection is None
            if connection is None:
                async with asyncio.timeout(deadline.remaining_s()):
                    _, connection = await loop.create_connection(
                        _Connection, self._host, self._port
                    )
            elif not connection.is_open:
                continue
            timer = loop.call_later(deadline.remaining_s(), connection.end, TimeoutError())
            try:
                reply = await connection.ask(message)
            except ConnectionError:
                if is_new:
                    raise
                continue  # the server was begun anew meanwhile; a call changes nothing there
            except asyncio.CancelledError as error:
                connection.end(ConnectionAbortedError(str(error)))
                raise
            finally:
                timer.cancel()
            if connection.is_open:
                self._idle.append(connection)
            return reply

    def _failure(self, stage: str, name: str, found: str) -> StageError:
        return StageError(
            f"{stage}: Triton at {self.address} could not answer with {name}: {found}", stage=stage
        )

    def close(self) -> None:
        """Let go of the connections."""
        while self._idle:
            self._idle.pop().end(ConnectionAbortedError("closed"))


@lru_cache(maxsize=512)
def _request_head(address: str, name: str, shapes: _Shapes, outputs: tuple[str, ...]) -> bytes:
    """Give what comes before the tensors: the same for all calls of such shapes."""
    inputs, size = [], 0
    for key, char, shape in shapes:
        dtype = np.dtype(char)
        num_bytes = math.prod(shape) * dtype.itemsize
        size += num_bytes
        inputs.append(
            {
                "name": key,
                "datatype": _TRITON_DTYPE[dtype],
                "shape": shape,
                "parameters": {"binary_data_size": num_bytes},
            }
        )
    wanted = [{"name": key, "parameters": {"binary_data": True}} for key in outputs]
    head = msgspec.json.encode({"inputs": inputs, "outputs": wanted})
    return (
        f"POST /v2/models/{quote(name, safe='')}/infer HTTP/1.1\r\n"
        f"Host: {address}\r\n"
        "Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\n"
        f"Content-Length: {len(head) + size}\r\n\r\n"
    ).encode() + head


def _arrays(reply: _Reply) -> Arrays:
    body, begin = reply.body, reply.head_size
    arrays: dict[str, Array] = {}
    for output in _decode_head(body[:begin]).outputs:
        end = begin + output.parameters.binary_data_size
        data = body[begin:end]  # copied: it may begin anywhere, an array's numbers should not
        arrays[output.name] = np.frombuffer(data, NUMPY_DTYPES[output.datatype]).reshape(
            output.shape
        )
        begin = end
    return arrays
