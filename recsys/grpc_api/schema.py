"""The messages themselves, made when this module is imported: nothing is compiled, or drifts."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from recsys.grpc_api import numbers as field_numbers
from recsys.grpc_api.methods import METHODS, PACKAGE, SERVICE
from recsys.grpc_api.shapes import Field, Message, shapes

MESSAGES: dict[str, Message] = shapes(
    kind for method in METHODS for kind in (method.request, method.answer)
)
_FILE_NAME = "recsys/v1/recsys.proto"
_FieldProto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _FieldProto.TYPE_STRING,
    "int64": _FieldProto.TYPE_INT64,
    "double": _FieldProto.TYPE_DOUBLE,
    "bool": _FieldProto.TYPE_BOOL,
}


def message_class(name: str) -> Any:
    """Give the class of a message."""
    return _CLASSES[name]


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=_FILE_NAME, package=PACKAGE, syntax="proto3")
    known = field_numbers.load()
    for shape in MESSAGES.values():
        _add_message(file.message_type.add(name=shape.name), shape, known)
    service = file.service.add(name=SERVICE.removeprefix(f"{PACKAGE}."))
    for method in METHODS:
        service.method.add(
            name=method.name,
            input_type=f".{PACKAGE}.{method.request.__name__}",
            output_type=f".{PACKAGE}.{method.answer.__name__}",
        )
    return file


def _add_message(target: Any, shape: Message, known: field_numbers.Numbers) -> None:
    for name, number in field_numbers.reserved(known, shape).items():
        target.reserved_name.append(name)
        target.reserved_range.add(start=number, end=number + 1)
    if any(field.oneof for field in shape.fields):
        target.oneof_decl.add(name="value")
    optional = [field.name for field in shape.fields if field.optional]
    for field in shape.fields:
        made = target.field.add(
            name=field.name,
            number=field_numbers.number_of(known, shape.name, field.name),
            label=_FieldProto.LABEL_OPTIONAL,
        )
        if field.oneof:
            made.oneof_index = 0
        if field.optional:  # proto3: a oneof of its own, after the real ones
            made.proto3_optional = True
            made.oneof_index = len(target.oneof_decl)
            target.oneof_decl.add(name=f"_{field.name}")
        if field.label == "by_name":
            _add_map(target, made, shape, field)
            continue
        if field.label == "many":
            made.label = _FieldProto.LABEL_REPEATED
        _set_type(made, field)
    assert len(optional) == sum(field.proto3_optional for field in target.field), shape.name


def _add_map(target: Any, made: Any, shape: Message, field: Field) -> None:
    """Make the message of one entry that protobuf's maps are lists of."""
    entry = target.nested_type.add(
        name="".join(part.capitalize() for part in field.name.split("_")) + "Entry"
    )
    entry.options.map_entry = True
    for name, number in (("key", 1), ("value", 2)):
        entry.field.add(name=name, number=number, label=_FieldProto.LABEL_OPTIONAL)
    entry.field[0].type = _FieldProto.TYPE_STRING
    _set_type(entry.field[1], field)
    made.label = _FieldProto.LABEL_REPEATED
    made.type = _FieldProto.TYPE_MESSAGE
    made.type_name = f".{PACKAGE}.{shape.name}.{entry.name}"


def _set_type(made: Any, field: Field) -> None:
    if field.is_scalar:
        made.type = _SCALARS[field.of]
    else:
        made.type = _FieldProto.TYPE_MESSAGE
        made.type_name = f".{PACKAGE}.{field.of}"


def _classes() -> dict[str, Any]:
    # The pool of the process: server reflection looks there.
    pool = descriptor_pool.Default()
    pool.Add(_file())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in MESSAGES
    }


_CLASSES = _classes()
