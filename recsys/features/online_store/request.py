"""What one ``get_online_features`` asks for, compiled once for each list of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from feast import FeatureService, RepoConfig
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.utils import _get_cached_request_context

from recsys.errors import FeatureError, InputError
from recsys.features.feast_views import compile_view
from recsys.features.feature_rows import FeatureRows
from recsys.features.redis.commands import Hmgets
from recsys.features.redis.regular_rows import part_of
from recsys.features.row_groups import Group, decode_group, make_group
from recsys.features.view import Feature, ValueType, View

_LEFT_TO_FEAST: tuple[ValueType, ...] = ("timestamp", "timestamp_list")
"""Types whose Python values Feast makes in ways of its own."""
_MAX_KNOWN = 256


@dataclass(frozen=True)
class Compiled:
    """Groups to read, and where each feature of the answer is found in them."""

    groups: tuple[Group, ...]
    names: tuple[tuple[str, int, str], ...]
    """``(name in the answer, group, "view:feature")``, in the order asked for."""
    join_keys: frozenset[str]
    """All join keys of the project: of the columns given, these come back in the answer."""
    entity_names: frozenset[str]
    types: dict[str, Any]
    """Feast's type of each feature's name."""
    key_types: dict[str, Any]
    """Feast's type of each join key."""


class Pending(NamedTuple):
    """A request with its keys: what to send and how to read the answer."""

    compiled: Compiled
    entities: dict[str, list[Any]]
    commands: Hmgets
    parts: tuple[tuple[slice, npt.NDArray[np.int64]], ...]
    """For each group: its replies, and which of them each row of the answer is."""


class Found(NamedTuple):
    """The columns of an answer."""

    pending: Pending
    rows: tuple[FeatureRows, ...]


class Requests:
    """Compiles requests and remembers them while Feast remembers what they mean."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Compiled | None]] = {}

    def pending(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: Any,
        project: str,
        full_feature_names: bool,
    ) -> Pending | None:
        """Give what to send; ``None`` for what is left to Feast."""
        if config.entity_key_serialization_version != 3:
            return None
        if isinstance(features, FeatureService) and getattr(features, "precompute_online", False):
            return None
        entities = _columns(entity_rows)
        if entities is None:
            return None
        context = _get_cached_request_context(registry, project, features, full_feature_names)
        known = self._known.get(id(context))
        if known is None or known[0] is not context:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = (context, _compile(config, registry, project, context, full_feature_names))
            self._known[id(context)] = known
        compiled = known[1]
        if compiled is None or not entities.keys().isdisjoint(compiled.entity_names):
            return None
        try:
            return _pending(compiled, entities)
        except InputError:
            return None  # Feast converts some values, and says in its own words what it cannot


def decode(
    pending: Pending, found: Sequence[Sequence[bytes | None]], now_us: int, *, keep_expired: bool
) -> Found:
    """Give the columns of the replies. Raises FeatureError when they are of another type."""
    return Found(
        pending,
        tuple(
            decode_group(
                group,
                part_of(found, n, place),
                now_us,
                keep_expired=keep_expired,
            )
            for n, (group, (place, _)) in enumerate(
                zip(pending.compiled.groups, pending.parts, strict=True)
            )
        ),
    )


def _columns(entity_rows: Any) -> dict[str, list[Any]] | None:
    if isinstance(entity_rows, Mapping):
        if not all(isinstance(column, list) for column in entity_rows.values()):
            return None
        columns = dict(entity_rows)
    elif isinstance(entity_rows, list) and entity_rows and isinstance(entity_rows[0], dict):
        names = entity_rows[0].keys()
        if any(row.keys() != names for row in entity_rows):
            return None
        columns = {name: [row[name] for row in entity_rows] for name in names}
    else:
        return None
    lengths = {len(column) for column in columns.values()}
    return columns if len(lengths) == 1 and lengths != {0} else None


def _compile(
    config: RepoConfig, registry: Any, project: str, context: Any, full_names: bool
) -> Compiled | None:
    _, on_demand, entity_map, key_types, join_keys, grouped, _, request_data, entityless = context
    if on_demand or request_data or entityless or not grouped:
        return None
    versioned = config.registry.enable_online_feature_view_versioning
    by_keys: dict[tuple[str, ...], list[tuple[View, list[Feature], str]]] = {}
    order: list[tuple[str, tuple[str, ...], str]] = []
    types: dict[str, Any] = {}
    try:
        for table, requested in grouped:
            projection = table.projection
            if projection.join_key_map or projection.version_tag is not None:
                return None
            entities = {
                name: registry.get_entity(name, project, allow_cache=True)
                for name in table.entities
            }
            view = compile_view(table, entities, compute_versioned_name(table, versioned))
            features = [view.feature(name) for name in requested]
            if any(feature.type in _LEFT_TO_FEAST for feature in features):
                return None
            if "timestamp" in view.key_types:
                return None
            by_keys.setdefault(view.join_keys, []).append(
                (view, features, projection.name_to_use())
            )
            types_of = {field.name: field.dtype.to_value_type() for field in table.features}
            for name in requested:
                shown = f"{projection.name_to_use()}__{name}" if full_names else name
                order.append((shown, view.join_keys, f"{view.name}:{name}"))
                types[shown] = types_of[name]
    except (FeatureError, KeyError):
        return None
    if any(len({view.name for view, _, _ in chosen}) != len(chosen) for chosen in by_keys.values()):
        return None  # one view twice, under two names
    places = {keys: number for number, keys in enumerate(by_keys)}
    return Compiled(
        groups=tuple(
            make_group(project, [(view, features) for view, features, _ in chosen])
            for chosen in by_keys.values()
        ),
        names=tuple((shown, places[keys], name) for shown, keys, name in order),
        join_keys=frozenset(join_keys),
        entity_names=frozenset(entity_map) - frozenset(join_keys),
        types=types,
        key_types=key_types,
    )


def _pending(compiled: Compiled, entities: dict[str, list[Any]]) -> Pending:
    commands = Hmgets()
    parts = []
    for group in compiled.groups:
        built = group.keys.build(entities)
        places = {key: place for place, key in enumerate(dict.fromkeys(built))}
        index = (
            np.arange(len(built))
            if len(places) == len(built)
            else np.fromiter((places[key] for key in built), dtype=np.int64, count=len(built))
        )
        parts.append((commands.add(list(places), group.fields, group.shape), index))
    given = {name: column for name, column in entities.items() if name in compiled.join_keys}
    return Pending(compiled, given, commands, tuple(parts))
