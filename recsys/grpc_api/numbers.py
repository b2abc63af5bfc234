"""Field numbers: once given, a field keeps its number for ever, and a number is never given twice.

They stand in ``numbers.json``, which only grows: ``python -m recsys.grpc_api`` adds the fields that
are new. A field that is gone keeps its entry, and its number is reserved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from recsys.grpc_api.shapes import Message

FILE = Path(__file__).parent / "numbers.json"

Numbers = dict[str, dict[str, int]]
"""By message and field."""


def load() -> Numbers:
    """Give the numbers there are."""
    numbers: Numbers = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return numbers


def extended(numbers: Mapping[str, Mapping[str, int]], messages: Mapping[str, Message]) -> Numbers:
    """Give ``numbers`` with those of new fields after them."""
    grown = {name: dict(fields) for name, fields in numbers.items()}
    for message in messages.values():
        fields = grown.setdefault(message.name, {})
        for field in message.fields:
            fields.setdefault(field.name, max(fields.values(), default=0) + 1)
    return grown


def number_of(numbers: Mapping[str, Mapping[str, int]], message: str, field: str) -> int:
    """Give a field's number.

    Raises:
        KeyError: when it has none yet.
    """
    try:
        return numbers[message][field]
    except KeyError:
        raise KeyError(
            f"wanted a number for {message}.{field} in {FILE.name}, found none; run "
            "`python -m recsys.grpc_api`"
        ) from None


def reserved(numbers: Mapping[str, Mapping[str, int]], message: Message) -> dict[str, int]:
    """Give the fields that a message had once."""
    present = {field.name for field in message.fields}
    return {n: i for n, i in numbers.get(message.name, {}).items() if n not in present}
