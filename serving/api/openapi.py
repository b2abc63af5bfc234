"""The OpenAPI document, made from the route table and the very types that decode and encode."""

from __future__ import annotations

from typing import Any

import msgspec

from recsys import __version__
from recsys.stage_times import SERVER_TIMING
from recsys.wire import ErrorResponse
from serving.api.endpoints import ENDPOINTS, Endpoint, Parameter
from serving.api.problems import STATUS, Code

_SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key of `recsys keys create`, or a JWT of the configured issuer.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}
"""Asked for unless the API listens on loopback alone, or RECSYS_AUTH says otherwise."""
_REF = "#/components/schemas/{name}"


_ASKED: tuple[Code, ...] = ("unauthenticated", "forbidden", "rate_limited")
"""What an endpoint answers besides when it asks who calls."""


_SERVER_TIMING = {
    "description": "Milliseconds of each stage the request went through (W3C Server Timing).",
    "schema": {"type": "string"},
}


def openapi_document() -> dict[str, Any]:
    """Give the document (OpenAPI 3.1)."""
    types = {
        kind
        for endpoint in ENDPOINTS
        for kind in (endpoint.request, endpoint.answer, endpoint.unready, ErrorResponse)
        if kind not in (None, str)
    }
    ordered = sorted(types, key=_name)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        operation = _operation(endpoint, schema_of)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "recsys",
            "version": __version__,
            "description": "Recommendation and ranking. Times are epoch milliseconds UTC.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY_SCHEMES},
    }


def _name(kind: Any) -> str:
    """Give what a type is sorted by: the module it is in does not matter. Unions come last."""
    return str(getattr(kind, "__name__", "~"))


def _operation(endpoint: Endpoint, schema_of: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": endpoint.description,
        "responses": _responses(endpoint, schema_of),
        "security": [],
    }
    if endpoint.access != "public":
        # OpenAPI 3.1 names roles here too where a scheme has no scopes of its own.
        operation["security"] = [{scheme: [endpoint.access]} for scheme in _SECURITY_SCHEMES]
    if endpoint.parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in endpoint.parameters]
    if endpoint.request is not None:
        schema = schema_of[endpoint.request]
        if endpoint.path == "/v1/events":
            schema = _one_or_many(schema)
        operation["requestBody"] = {"required": True, "content": _json(schema)}
    return operation


def _responses(endpoint: Endpoint, schema_of: dict[Any, Any]) -> dict[str, Any]:
    if endpoint.answer is str:
        good: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        good = _json(schema_of[endpoint.answer])
    answer: dict[str, Any] = {"description": "The answer.", "content": good}
    if endpoint.tells_stages:
        answer["headers"] = {SERVER_TIMING: _SERVER_TIMING}
    responses = {str(endpoint.status): answer}
    by_status: dict[int, list[Code]] = {}
    asked = () if endpoint.access == "public" else _ASKED
    for code in (*endpoint.problems, *asked, "internal"):
        by_status.setdefault(STATUS[code], []).append(code)
    for status, codes in sorted(by_status.items()):
        names = ", ".join(f"`{code}`" for code in codes)
        responses[str(status)] = {
            "description": f"Error code {names}.",
            "content": _json(schema_of[ErrorResponse]),
        }
    if endpoint.unready is not None:
        responses["503"] = {
            "description": "Some part does not answer.",
            "content": _json(schema_of[endpoint.unready]),
        }
    return responses


def _one_or_many(event: dict[str, Any]) -> dict[str, Any]:
    many = {"type": "array", "items": event, "minItems": 1}
    envelope = {
        "type": "object",
        "properties": {"events": many},
        "required": ["events"],
        "additionalProperties": False,
    }
    return {"anyOf": [event, many, envelope]}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "schema": parameter.schema,
        "description": parameter.about,
    }


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
