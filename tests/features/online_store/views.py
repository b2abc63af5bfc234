"""Views of every type, as a plan has them, without Feast."""

from __future__ import annotations

from typing import get_args

import mmh3

from recsys.features.plan import Plan
from recsys.features.view import Feature, KeyType, ValueType, View

ALL_TYPES: tuple[ValueType, ...] = get_args(ValueType)


def feature(view: str, name: str, kind: ValueType, columns: tuple[str, ...] = ()) -> Feature:
    number = mmh3.hash(f"{view}:{name}", signed=False)
    return Feature(name=name, type=kind, field=number, columns=columns)


def view_of(
    name: str,
    types: dict[str, ValueType],
    keys: dict[str, KeyType] | None = None,
    ttl_ms: int = 0,
    columns: dict[str, tuple[str, ...]] | None = None,
) -> View:
    keys = keys or {"id": "int64"}
    return View(
        name=name,
        join_keys=tuple(sorted(keys)),
        key_types=tuple(keys[key] for key in sorted(keys)),
        features=tuple(
            feature(name, n, kind, (columns or {}).get(n, ())) for n, kind in types.items()
        ),
        ttl_ms=ttl_ms,
    )


def plan_of(project: str, *views: View, **services: tuple[str, ...]) -> Plan:
    everything = tuple(f"{view.name}:{n}" for view in views for n in view.feature_names)
    return Plan(
        project=project,
        views=views,
        services={"all": everything, **services},
        definitions_hash="",
    )
