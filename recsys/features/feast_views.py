"""From a feature view as Feast has it to a view of the plan: keys, types, windows, tags.

Works on Feast's objects without importing Feast, one view at a time: for the plan of a repository
(``feast_declarations.py``) as for what the online and offline plug-ins are handed by Feast.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import mmh3
import msgspec

from recsys.errors import FeatureError
from recsys.features import names
from recsys.features.aggregation import Aggregate
from recsys.features.view import Feature, KeyType, ValueType, View

STORED_TAG = "stored"
"""Tag of a view: ``state`` when its values are not stored beside the state they are made from."""
_SCALARS: dict[str, ValueType] = {
    "Float32": "float32", "Float64": "float64", "Int32": "int32", "Int64": "int64",
    "Bool": "bool", "String": "string", "Bytes": "bytes", "UnixTimestamp": "timestamp",
}  # fmt: skip
_TYPES: dict[str, ValueType] = {
    **_SCALARS,
    **{f"Array({name})": f"{kind}_list" for name, kind in _SCALARS.items()},  # type: ignore[misc]
}
_KEY_TYPES: dict[str, KeyType] = {
    "STRING": "string", "INT64": "int64", "INT32": "int32", "BYTES": "bytes",
    "UNIX_TIMESTAMP": "timestamp",
}  # fmt: skip


def compile_view(view: Any, entities: Mapping[str, Any], stored_name: str | None = None) -> View:
    """Compile one feature view. ``stored_name`` is its name in Redis where that is another.

    Raises:
        FeatureError: when a feature or a join key has a type the plan does not know.
    """
    key_types = _key_types(view, entities)
    join_keys = key_types.keys()
    stored_name = stored_name if stored_name != view.name else None
    features = []
    # Feast keeps a schema as a set, so its order changes from run to run: ours is by name,
    # and that of the aggregations, which is kept, where there are some.
    for field in sorted(view.schema, key=lambda field: field.name):
        if field.name in join_keys:
            continue
        kind = value_type_of(field.dtype)
        if kind is None:
            raise FeatureError(
                f'feature "{field.name}" of view "{view.name}": wanted one of '
                f"{', '.join(_TYPES)}; found {field.dtype}"
            )
        number = mmh3.hash(f"{stored_name or view.name}:{field.name}", signed=False)
        columns = _columns(view, field, kind)
        features.append(Feature(name=field.name, type=kind, field=number, columns=columns))
    aggregates = tuple(
        Aggregate(
            name=a.name or f"{a.function}_{a.column}",
            column=a.column,
            function=a.function,
            window_ms=_ms(a.time_window),
            slide_ms=_ms(a.slide_interval),
        )
        for a in getattr(view, "aggregations", None) or ()
    )
    if aggregates:
        by_name = {f.name: f for f in features}
        if sorted(by_name) != sorted(a.name for a in aggregates):
            raise FeatureError(
                f'view "{view.name}": wanted one schema field for each aggregation, found fields '
                f"{sorted(by_name)} and aggregations {sorted(a.name for a in aggregates)}"
            )
        features = [by_name[a.name] for a in aggregates]
    compiled = View(
        name=view.name,
        join_keys=tuple(sorted(join_keys)),
        features=tuple(features),
        ttl_ms=_ms(view.ttl),
        aggregates=aggregates,
        key_types=tuple(key_types[name] for name in sorted(join_keys)),
        stored_name=stored_name or "",
    )
    compiled = msgspec.structs.replace(compiled, stores_values=_stores_values(view, compiled))
    compiled.check()
    return compiled


def _stores_values(declared: Any, view: View) -> bool:
    said = (declared.tags or {}).get(STORED_TAG)
    if said is None:
        return True
    if said != "state" or not (view.aggregates or view.name == names.USER_HISTORY):
        raise FeatureError(
            f'tag {STORED_TAG} of view "{view.name}": wanted "state", of a view with aggregations '
            f'or of {names.USER_HISTORY}; found "{said}"'
        )
    return False


def compile_made(view: Any) -> View | None:
    """Compile a view whose values are made from state; ``None`` for one that is read as stored.

    Who has no registry at hand does not know the entities: the names of the join keys are right,
    and their types are those of the view's own columns.
    """
    if not getattr(view, "aggregations", None) and STORED_TAG not in (view.tags or {}):
        return None
    columns = view.entity_columns
    entities = {
        name: _Entity(column.name, column.dtype.to_value_type())
        for name, column in zip(view.entities, columns, strict=True)
    }
    try:
        return compile_view(view, entities)
    except FeatureError:
        return None


class _Entity(NamedTuple):
    """What ``compile_view`` asks of an entity."""

    join_key: str
    value_type: Any


def _key_types(view: Any, entities: Mapping[str, Any]) -> dict[str, KeyType]:
    """Give the types of the join keys: of the view's own columns, else as the entity says."""
    columns = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    types: dict[str, KeyType] = {}
    for name in view.entities:
        if name == "__dummy":  # a view without entities has one row, of an entity of Feast's own
            types["__dummy_id"] = "string"
            continue
        entity = entities[name]
        found = columns.get(entity.join_key, entity.value_type).name
        kind = _KEY_TYPES.get(found)
        if kind is None:
            raise FeatureError(
                f'entity "{name}" of view "{view.name}": wanted a value_type among '
                f"{', '.join(_KEY_TYPES)}; found {found}"
            )
        types[entity.join_key] = kind
    return types


def _columns(view: Any, field: Any, kind: ValueType) -> tuple[str, ...]:
    """Give the columns of a vector: tag ``columns`` of its field, or ``<field>_columns`` of it."""
    named = field.tags.get("columns") or view.tags.get(f"{field.name}_columns") or ""
    columns = tuple(name.strip() for name in named.split(",") if name.strip())
    if columns and kind != "float32_list":
        raise FeatureError(
            f'feature "{field.name}" of view "{view.name}": wanted Array(Float32) for a vector of '
            f"columns {', '.join(columns)}; found {field.dtype}"
        )
    if len(set(columns)) != len(columns):
        raise FeatureError(
            f'feature "{field.name}" of view "{view.name}": a column is named twice in {named}'
        )
    return columns


def value_type_of(dtype: Any) -> ValueType | None:
    """Give the plan's name of a type of Feast's; ``None`` when the plan has no such type."""
    return _TYPES.get(_type_name(dtype))


def _type_name(dtype: Any) -> str:
    base = getattr(dtype, "base_type", None)
    return f"Array({_type_name(base)})" if base is not None else str(dtype).split(".")[-1]


def _ms(duration: timedelta | None) -> int:
    return 0 if duration is None else duration // timedelta(milliseconds=1)
