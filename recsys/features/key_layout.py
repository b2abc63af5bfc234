"""Names of Feast's hashes in Redis, written and read without Feast.

One hash for each entity: its name is the serialised entity key and the project.
``tests/features/test_feast_compatibility.py`` holds this file to the SDK in both directions.
Source: ``key_encoding_utils.py`` and ``online_stores/helpers.py`` of Feast 0.67.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from recsys.features.view import View

_STRING_TYPE = 2


def key_prefix(join_keys: Sequence[str]) -> bytes:
    """Give the part of an entity key that all entities of these (sorted) join keys share."""
    parts = [struct.pack("<I", len(join_keys))]
    for name in join_keys:
        encoded = name.encode()
        parts.append(struct.pack("<II", _STRING_TYPE, len(encoded)) + encoded)
    return b"".join(parts)


class EntityKeys:
    """Redis keys of the entities of a view, or of (sorted) join keys."""

    def __init__(self, view: View | Sequence[str], project: str) -> None:
        self._prefix = key_prefix(view.join_keys if isinstance(view, View) else view)
        self._project = project.encode()

    def of(self, *values: str) -> bytes:
        """Give the key of an entity; ``values`` in the order of ``View.join_keys``."""
        return b"".join([self._prefix, *map(_packed, values), self._project])

    def head(self, *values: str) -> bytes:
        """Give how the keys of all entities begin whose first values are these."""
        return b"".join([self._prefix, *map(_packed, values)])

    def tail(self, value: str) -> bytes:
        """Give how the keys of all entities end whose last value is this one."""
        return _packed(value) + self._project

    def values_of(self, key: bytes) -> tuple[str, ...] | None:
        """Give the values that ``of`` makes this key of; ``None`` for another entity's."""
        parsed = _parse(key) if key.startswith(self._prefix) else None
        return None if parsed is None else tuple(value.decode() for value in parsed.values)

    def only_values(self, keys: Iterable[bytes]) -> list[str]:
        """Give the value of each key that is ours, of one join key; others are left out."""
        begin, ending = len(self._prefix) + 8, self._project
        found = []
        for key in keys:
            end = begin + int.from_bytes(key[begin - 4 : begin], "little")
            if key.startswith(self._prefix) and key[end:] == ending:
                found.append(key[begin:end].decode())
        return found

    def of_all(self, many: Sequence[str | tuple[str, ...]]) -> list[bytes]:
        """Give the keys of many entities; half the time of one after the other.

        Of one join key the value itself, of several a tuple of them.
        """
        project = self._project
        if many and not isinstance(many[0], str):
            columns = [_packed_all(values) for values in zip(*many, strict=True)]
            return [
                self._prefix + b"".join(parts) + project for parts in zip(*columns, strict=True)
            ]
        return [key + project for key in _packed_all(many, self._prefix)]


def _packed_all(values: Sequence[Any], before: bytes = b"") -> list[bytes]:
    encoded = list(map(str.encode, values))
    heads = {
        length: before + struct.pack("<II", _STRING_TYPE, length)
        for length in set(map(len, encoded))
    }
    return [heads[len(value)] + value for value in encoded]


def _packed(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<II", _STRING_TYPE, len(encoded)) + encoded


def ending_of_user(user_id: str, project: str) -> bytes:
    """Give how the names of all hashes of a user end, whatever else they are keyed by.

    Join keys are sorted and ``user_id`` comes last. An item of the same id ends so, too:
    ``is_keyed_by_user`` tells them apart.
    """
    return _packed(user_id) + project.encode()


def is_keyed_by_user(key: bytes) -> bool:
    """Say whether ``user_id`` is among the join keys of an entity key."""
    parsed = _parse(key)
    return parsed is not None and b"user_id" in parsed.join_keys


def project_of_key(key: bytes) -> str | None:
    """Give the project an entity key belongs to; ``None`` for a key of another kind."""
    parsed = _parse(key)
    return None if parsed is None else parsed.project


class _Parsed(NamedTuple):
    """What an entity key is made of."""

    join_keys: list[bytes]
    values: list[bytes]
    project: str


def _parse(key: bytes) -> _Parsed | None:
    """Take a key apart; ``None`` for a key of another kind."""
    try:
        (count,) = struct.unpack_from("<I", key)
        if not 1 <= count <= 16:
            return None
        at = 4
        parts: list[bytes] = []
        for _ in range(2 * count):  # names of the join keys, then values: type, length, bytes
            kind, length = struct.unpack_from("<II", key, at)
            at += 8 + length
            if kind > 64 or at > len(key):
                return None
            parts.append(key[at - length : at])
        return _Parsed(parts[:count], parts[count:], key[at:].decode())
    except (struct.error, UnicodeDecodeError):
        return None
