"""The API, fuzzed by its own OpenAPI document: no answer is a 5xx, and each is as documented.

``RECSYS_TEST_EXAMPLES`` is the number of requests of a kind and operation (``make verify-fuzz``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from recsys.pipeline import PipelineConfig
from serving.api.openapi import openapi_document
from tests.serving.api.memory_api import MemoryApi, memory_api

EXAMPLES = int(os.environ.get("RECSYS_TEST_EXAMPLES", "20"))
DOCUMENT = openapi_document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)

WANTS_KAFKA = {"/v1/requests/{request_id}"}
"""Here there is none: 503 is the documented answer."""


DEADLINES = {"x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms"}
"""A caller who names one may be told that it has passed."""


def cases() -> Iterator[Any]:
    """Operations, asked as documented and otherwise; what takes nothing cannot be asked wrongly."""
    for found in SCHEMA.get_all_operations():
        operation = found.ok()
        says = DOCUMENT["paths"][operation.path][operation.method]
        takes = says["security"] or "parameters" in says or "requestBody" in says
        for mode in GenerationMode:
            if takes or mode is GenerationMode.POSITIVE:
                yield pytest.param(operation, mode, id=f"{operation.label}-{mode.value}")


@pytest.fixture(scope="module")
def api() -> Iterator[MemoryApi]:
    # Long: a busy machine must not make an answer late.
    with memory_api(config=PipelineConfig(deadline_ms=20_000, features_ms=10_000)) as running:
        yield running


@pytest.mark.parametrize(("operation", "mode"), list(cases()))
def test_whatever_is_asked_gets_a_documented_answer(
    api: MemoryApi, operation: Any, mode: GenerationMode
) -> None:
    # A past answer is looked for by a process of its own.
    examples = EXAMPLES if operation.path not in WANTS_KAFKA else max(2, EXAMPLES // 20)

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        wanted = case.as_transport_kwargs(base_url="http://test")
        url = wanted.pop("url").removeprefix("http://test")
        wanted.pop("cookies", None)
        # httpx would refuse a header that is not ASCII; a caller on a socket would not.
        headers = dict(wanted.pop("headers", None) or {})
        wanted["headers"] = [
            (name.encode(), str(value).encode("utf-8", "replace"))
            for name, value in headers.items()
        ]
        if isinstance(wanted.get("data"), (bytes, str)):
            wanted["content"] = wanted.pop("data")
        response = api.client.request(wanted.pop("method"), url, **wanted)
        if operation.path not in WANTS_KAFKA and not (
            response.status_code == 504 and {name.lower() for name in headers} & DEADLINES
        ):
            assert response.status_code < 500, response.text
        assert response.status_code != 500, response.text
        operation.validate_response(response)

    check()
