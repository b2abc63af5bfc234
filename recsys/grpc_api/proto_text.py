"""The schema as ``recsys.proto``, for the compilers of other languages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from textwrap import wrap

from recsys.grpc_api.methods import PACKAGE, SERVICE, Method
from recsys.grpc_api.numbers import Numbers, number_of, reserved
from recsys.grpc_api.shapes import Field, Message

_HEAD = f"""// The gRPC twin of the HTTP API (docs/grpc.md). Made from recsys/wire/ and
// recsys/events/schema.py by `python -m recsys.grpc_api`; a test holds it to them. What a field
// means, its limits and its default stand there and at /docs: one that is left out of a request
// takes the default of the HTTP API.

syntax = "proto3";

package {PACKAGE};
"""


def render(messages: Mapping[str, Message], numbers: Numbers, methods: Iterable[Method]) -> str:
    """Give the text."""
    rpcs = "\n".join(
        f"  // {method.about} Twin of {' '.join(method.route)}.\n"
        f"  rpc {method.name}({method.request.__name__}) returns ({method.answer.__name__});"
        for method in methods
    )
    service = f"service {SERVICE.removeprefix(PACKAGE + '.')} {{\n{rpcs}\n}}\n"
    parts = [_message(messages[name], numbers) for name in sorted(messages)]
    return "\n".join([_HEAD, service, *parts])


def _message(message: Message, numbers: Numbers) -> str:
    lines = [f"// {line}" for line in wrap(" ".join(message.about.split()), 97)]
    lines.append(f"message {message.name} {{")
    if gone := reserved(numbers, message):
        lines.append(f"  reserved {', '.join(map(str, sorted(gone.values())))};")
        lines.append("  reserved " + ", ".join(f'"{name}"' for name in sorted(gone)) + ";")
    in_oneof = any(field.oneof for field in message.fields)
    if in_oneof:
        lines.append("  oneof value {")
    for field in message.fields:
        number = number_of(numbers, message.name, field.name)
        lines.append(f"{'    ' if in_oneof else '  '}{_type(field)} {field.name} = {number};")
    if in_oneof:
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def _type(field: Field) -> str:
    if field.label == "by_name":
        return f"map<string, {field.of}>"
    if field.label == "many":
        return f"repeated {field.of}"
    return f"optional {field.of}" if field.optional else field.of
