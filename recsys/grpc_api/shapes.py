"""The types of the HTTP API as protobuf shapes: which messages there are, with which fields.

================================  =================================================================
msgspec                           protobuf
================================  =================================================================
``str``, ``Literal``              ``string``
``int``, ``float``, ``bool``      ``int64``, ``double``, ``bool``
``list[T]``                       ``repeated T``
``dict[str, T]``                  ``map<string, T>``; of maps: of a message that holds one
a struct                          a message of the same name
structs told apart by a tag       a message of one ``oneof``, its fields named by the tags
an attribute's value              ``AttributeValue``, a ``oneof`` of what it can be
``T | None``                      ``optional T``
================================  =================================================================

Every scalar of a request is ``optional``, so that what was left out takes the HTTP API's default,
which is not always protobuf's. Answers hold all their values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import inspect

Scalar = Literal["string", "int64", "double", "bool"]
ATTRIBUTE_VALUE = "AttributeValue"
TEXTS = "Texts"
ATTRIBUTE_FIELDS: dict[str, str] = {
    "flag": "bool", "integer": "int64", "number": "double", "text": "string", "texts": TEXTS,
}  # fmt: skip
"""What an attribute's value can be, by the field of the message that holds it."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a message."""

    name: str
    of: str
    """A scalar, or the name of a message."""
    is_scalar: bool
    label: Literal["one", "many", "by_name"] = "one"
    """``many``: repeated; ``by_name``: a map from strings."""
    optional: bool = False
    """Whether its being absent can be told from its being zero."""
    oneof: bool = False
    required: bool = False
    """Whether a list that is empty was still sent."""
    default: Any = None
    """Of an answer's field that is left out of its JSON; ``None``: it stays out."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message."""

    name: str
    fields: tuple[Field, ...]
    about: str = ""
    asks: bool = False
    """Whether it belongs to a request: what is empty there counts as left out."""
    tag_field: str | None = None
    """JSON key that tells which field of the ``oneof`` is meant."""


def shapes(types: Iterable[Any]) -> dict[str, Message]:
    """Give the messages that ``types``, all structs, need; each name once.

    Raises:
        TypeError: for a type that has no place in the table above.
    """
    found: dict[str, Message] = {}
    for kind in types:
        _add_struct(inspect.type_info(kind), found)
    return found


def _add_struct(info: Any, found: dict[str, Message]) -> str:
    name = str(info.cls.__name__)
    if name in found:
        return name
    found[name] = Message(name=name, fields=())  # a struct may hold itself
    strict = info.forbid_unknown_fields
    fields = tuple(_field(one, strict, found) for one in info.fields)
    about = (info.cls.__doc__ or "").strip()
    found[name] = Message(name=name, fields=fields, about=about, asks=strict)
    return name


def _field(info: Any, strict: bool, found: dict[str, Message]) -> Field:
    kind = _plain(info.type)
    optional = False
    if isinstance(kind, inspect.UnionType):
        others = [_plain(t) for t in kind.types if not isinstance(t, inspect.NoneType)]
        optional = len(others) < len(kind.types)
        kind = others[0] if len(others) == 1 else inspect.UnionType(tuple(others))
    label: Literal["one", "many", "by_name"] = "one"
    if isinstance(kind, inspect.ListType):
        label, kind = "many", _plain(kind.item_type)
    elif isinstance(kind, inspect.DictType):
        label, kind = "by_name", _plain(kind.value_type)
    scalar = _scalar(kind)
    default = None
    if not strict and info.default is not msgspec.NODEFAULT and label == "one":
        default = msgspec.to_builtins(info.default)
    return Field(
        name=info.encode_name,
        of=scalar or _message(kind, found),
        is_scalar=scalar is not None,
        label=label,
        required=info.required,
        optional=label == "one" and scalar is not None and (strict or optional),
        default=default,
    )


def _plain(kind: Any) -> Any:
    return _plain(kind.type) if isinstance(kind, inspect.Metadata) else kind


def _scalar(kind: Any) -> Scalar | None:
    if isinstance(kind, inspect.StrType):
        return "string"
    if isinstance(kind, inspect.IntType):
        return "int64"
    if isinstance(kind, inspect.FloatType):
        return "double"
    if isinstance(kind, inspect.BoolType):
        return "bool"
    if isinstance(kind, inspect.LiteralType):
        kinds = {type(value) for value in kind.values}
        return "string" if kinds == {str} else "int64" if kinds == {int} else None
    return None


def _message(kind: Any, found: dict[str, Message]) -> str:
    if isinstance(kind, inspect.StructType):
        return _add_struct(kind, found)
    if isinstance(kind, inspect.DictType) and (value := _scalar(_plain(kind.value_type))):
        name = f"{value.capitalize()}ByName"
        by_name = Field(name="values", of=value, is_scalar=True, label="by_name")
        found.setdefault(name, Message(name=name, fields=(by_name,)))
        return name
    if isinstance(kind, inspect.UnionType):
        members = [_plain(member) for member in kind.types]
        if all(isinstance(member, inspect.StructType) for member in members):
            return _add_tagged(members, found)
        if sorted(type(member).__name__ for member in members) == [
            "BoolType", "FloatType", "IntType", "ListType", "StrType",
        ]:  # fmt: skip
            return _add_attribute_value(found)
    raise TypeError(f"wanted a type that protobuf can hold, found {kind}")


def _add_tagged(members: list[Any], found: dict[str, Message]) -> str:
    name = "Event"
    assert {str(member.tag_field) for member in members} == {"kind"}, members
    fields = tuple(
        Field(name=str(member.tag), of=_add_struct(member, found), is_scalar=False, oneof=True)
        for member in members
    )
    about = "One of the events a product sends."
    found[name] = Message(name=name, fields=fields, about=about, tag_field="kind")
    return name


def _add_attribute_value(found: dict[str, Message]) -> str:
    found[TEXTS] = Message(
        name=TEXTS, fields=(Field(name="values", of="string", is_scalar=True, label="many"),)
    )
    fields = tuple(
        Field(name=name, of=of, is_scalar=of != TEXTS, oneof=True)
        for name, of in ATTRIBUTE_FIELDS.items()
    )
    found[ATTRIBUTE_VALUE] = Message(
        name=ATTRIBUTE_VALUE, fields=fields, about="The value of an item's or user's attribute."
    )
    return ATTRIBUTE_VALUE
