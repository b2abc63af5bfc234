"""Between protobuf messages and what the JSON of the HTTP API says: nothing is lost either way.

Both work on plain dictionaries, as JSON gives and takes them; limits and types are checked where
the JSON is decoded, so that both twins refuse the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys.grpc_api.schema import MESSAGES, message_class
from recsys.grpc_api.shapes import ATTRIBUTE_FIELDS, ATTRIBUTE_VALUE, TEXTS, Field, Message

_ATTRIBUTE_FIELD: dict[type, str] = {
    bool: "flag", int: "integer", float: "number", str: "text", list: "texts",
}  # fmt: skip


def to_message(name: str, value: Mapping[str, Any]) -> Any:
    """Give the message ``name`` that says what ``value`` says.

    Raises:
        TypeError, ValueError: when a value is not of its field's type, or a field is unknown.
    """
    message = message_class(name)()
    _fill(message, MESSAGES[name], value)
    return message


def to_mapping(message: Any) -> dict[str, Any]:
    """Give what a message says; what it leaves out is left out."""
    return _read(message, MESSAGES[message.DESCRIPTOR.name])


def _fill(message: Any, shape: Message, value: Mapping[str, Any]) -> None:
    if shape.tag_field is not None:
        kind = value.get(shape.tag_field)
        names = [field.name for field in shape.fields]
        if kind not in names:
            raise ValueError(f"{shape.tag_field}: wanted one of {', '.join(names)}, found {kind!r}")
        value = {str(kind): {k: v for k, v in value.items() if k != shape.tag_field}}
    known = 0
    for field in shape.fields:
        if field.name in value:
            known += 1
            found = value[field.name]
        else:
            found = field.default
        if found is not None:
            _set(message, field, found)
    if known < len(value):
        unknown = sorted(set(value) - {field.name for field in shape.fields})
        raise ValueError(f"{shape.name}: wanted known fields only, found {', '.join(unknown)}")


def _set(message: Any, field: Field, found: Any) -> None:
    if field.label == "many":
        target = getattr(message, field.name)
        if field.is_scalar:
            target.extend(found)
        else:
            for one in found:
                _fill_any(target.add(), field.of, one)
    elif field.label == "by_name":
        target = getattr(message, field.name)
        if field.is_scalar:
            target.update(found)
        else:
            for name, one in found.items():
                _fill_any(target[name], field.of, one)
    elif field.is_scalar:
        setattr(message, field.name, found)
    else:
        target = getattr(message, field.name)
        target.SetInParent()
        _fill_any(target, field.of, found)


def _fill_any(message: Any, name: str, found: Any) -> None:
    shape = MESSAGES[name]
    if name == ATTRIBUTE_VALUE:
        member = _ATTRIBUTE_FIELD.get(type(found), "")
        if not member:
            raise ValueError(
                f"wanted a text, number, truth value or list of texts, found {found!r}"
            )
        if ATTRIBUTE_FIELDS[member] == TEXTS:
            message.texts.SetInParent()
            message.texts.values.extend(found)
        else:
            setattr(message, member, found)
    elif _is_map(shape):
        message.values.update(found)
    else:
        _fill(message, shape, found)


def _read(message: Any, shape: Message) -> dict[str, Any]:
    if shape.tag_field is not None:
        kind = message.WhichOneof("value")
        if kind is None:
            return {}
        said = getattr(message, kind)
        return {shape.tag_field: kind} | _read(said, MESSAGES[said.DESCRIPTOR.name])
    found: dict[str, Any] = {}
    for field in shape.fields:
        if field.label == "many":
            values = getattr(message, field.name)
            if values or field.required or not shape.asks:
                found[field.name] = [_read_any(one, field) for one in values]
        elif field.label == "by_name":
            values = getattr(message, field.name)
            if values or field.required or not shape.asks:
                found[field.name] = {name: _read_any(one, field) for name, one in values.items()}
        elif (field.is_scalar and not field.optional) or message.HasField(field.name):
            found[field.name] = _read_any(getattr(message, field.name), field)
    return found


def _read_any(one: Any, field: Field) -> Any:
    if field.is_scalar:
        return one
    if field.of == ATTRIBUTE_VALUE:
        member = one.WhichOneof("value")
        if member is None:
            return None
        return list(one.texts.values) if member == "texts" else getattr(one, member)
    shape = MESSAGES[field.of]
    return dict(one.values) if _is_map(shape) else _read(one, shape)


def _is_map(shape: Message) -> bool:
    return len(shape.fields) == 1 and shape.fields[0].label == "by_name"
