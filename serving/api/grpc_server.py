"""The gRPC twin: every call goes to the handler of its HTTP twin, in this process.

So there is one set of limits, keys, rates, deadlines, rungs and errors. A call becomes the request
its twin would get, and the answer becomes a message; an answer from 400 on becomes a status
(``recsys/grpc_api/statuses.py``) with the code and the field of the problem beside it.

``grpc.health.v1`` answers for the process under ``""`` and for the service under its name, as
``/healthz`` and ``/readyz`` do; ``grpc.reflection.v1alpha`` gives the schema to whoever asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from string import Formatter
from typing import Any, NoReturn

import grpc
import msgspec
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from starlette.types import ASGIApp

from recsys.errors import ConfigurationError, ServerError
from recsys.grpc_api.convert import to_mapping, to_message
from recsys.grpc_api.methods import METHODS, SERVICE, Method
from recsys.grpc_api.schema import message_class
from recsys.grpc_api.statuses import CODE_KEY, FIELD_KEY, RETRY_AFTER_KEY, status_of
from recsys.settings import Settings
from recsys.wire import MAX_BODY_BYTES, ErrorResponse
from serving.api.in_process import InProcessAnswer, ask

logger = logging.getLogger(__name__)

_DRAIN_S = 10.0
"""Running calls may take so long once we stop."""
_WATCH_EVERY_S = 1.0
_LONGEST_S = 60.0
"""A deadline further off says no more than none."""
_PASSED_ON = frozenset({"authorization", "x-api-key"})
"""Metadata that the HTTP twin takes as headers of the same name."""
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.so_reuseport", 1),  # several API processes share the port
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
_error_decoder = msgspec.json.Decoder(ErrorResponse)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Context = grpc.aio.ServicerContext[Any, Any]
Ask = Callable[..., Awaitable[InProcessAnswer]]


@asynccontextmanager
async def serve_grpc(app: ASGIApp, settings: Settings) -> AsyncIterator[int]:
    """Serve beside ``app`` on ``RECSYS_GRPC_PORT`` for as long as the context lasts.

    Gives the port. Running calls are answered before it ends.

    Raises:
        ServerError: when the port cannot be had.
        ConfigurationError: when the certificate's files cannot be read.
    """

    async def ask_app(method: str, path: str, **more: Any) -> InProcessAnswer:
        return await ask(app, method, path, port=settings.api_port, **more)

    server = grpc.aio.server(options=_OPTIONS)
    handlers = {method.name: _handler(method, ask_app) for method in METHODS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    health = _Health(ask_app)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(
        (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME), server
    )
    host, wanted = settings.api_host_in_force, settings.grpc_port
    address = f"[{host}]:{wanted}" if ":" in host else f"{host}:{wanted}"
    credentials = _credentials(settings)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ServerError(
            f"wanted to listen on {address}, found it taken; free it, or set RECSYS_GRPC_PORT"
        ) from error
    await server.start()
    try:
        yield port
    finally:
        health.stopping.set()
        await server.stop(_DRAIN_S)


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_certfile is None:
        return None
    try:
        chain = settings.tls_certfile.read_bytes()
        key = (settings.tls_keyfile or settings.tls_certfile).read_bytes()
        authorities = settings.tls_client_cafile and settings.tls_client_cafile.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the TLS of the gRPC port: {error}") from error
    return grpc.ssl_server_credentials(
        [(key, chain)], authorities or None, require_client_auth=authorities is not None
    )


def _handler(method: Method, ask_app: Ask) -> Any:
    verb, template = method.route
    answer_name = method.answer.__name__

    in_path = [name for _, name, _, _ in Formatter().parse(template) if name]
    parse = message_class(method.request.__name__).FromString

    async def call(data: bytes, context: Context) -> Any:
        try:
            given = to_mapping(parse(data))
        except DecodeError:
            message = (
                f"wanted {method.request.__name__}, found bytes that are no such message; are both "
                "ends of one schema?"
            )
            await _refuse_call(context, "malformed", "", message)
        path = template
        for name in in_path:
            if name not in given:
                message = f"{name}: wanted 1 to 128 characters, found none"
                await _refuse_call(context, "invalid", name, message)
            path = path.replace(f"{{{name}}}", str(given.pop(name)))
        answer = await ask_app(
            verb,
            path,
            query=[(name, _said(value)) for name, value in given.items()] if verb == "GET" else (),
            body=_encode(given) if verb == "POST" else b"",
            headers=_headers(context),
        )
        if answer.status >= 400:
            await _refuse(context, answer)
        return to_message(answer_name, _decode(answer.body))

    return grpc.unary_unary_rpc_method_handler(
        call,
        # Bytes that are no message would be called an error of the server's.
        request_deserializer=None,
        response_serializer=message_class(answer_name).SerializeToString,
    )


def _said(value: Any) -> str:
    """Give a value as the query string has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _headers(context: Context) -> list[tuple[bytes, bytes]]:
    headers = [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
        if name in _PASSED_ON
    ]
    left_s = context.time_remaining()
    if left_s is not None and left_s < _LONGEST_S:
        headers.append((b"x-request-timeout-ms", b"%d" % max(1, int(left_s * 1e3))))
    return headers


async def _refuse(context: Context, answer: InProcessAnswer) -> None:
    """End a call as its twin was answered; the message is the twin's, word for word."""
    try:
        error = _error_decoder.decode(answer.body).error
        code, message, field = error.code, error.message, error.field
    except msgspec.MsgspecError:  # no answer of ours, such as a hang-up
        code, message, field = "internal", f"HTTP status {answer.status}", ""
    await _refuse_call(context, code, field, message, answer.header(b"retry-after"))


async def _refuse_call(
    context: Context, code: str, field: str, message: str, retry_after: str | None = None
) -> NoReturn:
    trailing: list[tuple[str, str | bytes]] = [(CODE_KEY, code)]
    if field:
        trailing.append((FIELD_KEY, field.encode(errors="replace")))
    if retry_after is not None:
        trailing.append((RETRY_AFTER_KEY, retry_after))
    await context.abort(status_of(code), message, tuple(trailing))
    raise AssertionError("abort raises")


class _Health(health_pb2_grpc.HealthServicer):
    """``grpc.health.v1``: see the module."""

    def __init__(self, ask_app: Ask) -> None:
        self._ask = ask_app
        self.stopping = asyncio.Event()

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: N802  gRPC's name
        """Say whether the process, or the service, can be used now."""
        status = await self._status(request.service)
        if status is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"service: wanted an empty name or {SERVICE}, found {request.service[:64]!r}",
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802
        """Say it now and at every change."""
        told: int | None = None
        while not self.stopping.is_set():
            status = await self._status(request.service)
            if status is None:
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            try:
                await asyncio.wait_for(self.stopping.wait(), _WATCH_EVERY_S)
            except TimeoutError:
                continue
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _status(self, service: str) -> int | None:
        if self.stopping.is_set():
            return int(health_pb2.HealthCheckResponse.NOT_SERVING)
        if service not in ("", SERVICE):
            return None
        answer = await self._ask("GET", "/readyz" if service else "/healthz")
        serving = health_pb2.HealthCheckResponse
        return int(serving.SERVING if answer.status == 200 else serving.NOT_SERVING)
