"""Requests are strict, answers may grow: each type states it for itself."""

from __future__ import annotations

import msgspec
import pytest

from recsys.wire import events as taken
from recsys.wire import health, lists, problems, replays, requests, users


def structs(*modules: object) -> list[type[msgspec.Struct]]:
    return [
        found for module in modules for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, msgspec.Struct)
        and found.__module__ == vars(module)["__name__"]
    ]  # fmt: skip


@pytest.mark.parametrize("kind", structs(requests))
def test_a_request_refuses_fields_it_does_not_know(kind: type[msgspec.Struct]) -> None:
    config = kind.__struct_config__
    assert (config.forbid_unknown_fields, config.frozen, config.omit_defaults) == (
        True,
        True,
        False,
    )


@pytest.mark.parametrize("kind", structs(health, lists, problems, replays, taken, users))
def test_an_answer_leaves_defaults_out_and_may_grow(kind: type[msgspec.Struct]) -> None:
    config = kind.__struct_config__
    assert (config.forbid_unknown_fields, config.frozen, config.omit_defaults) == (
        False,
        True,
        True,
    )
