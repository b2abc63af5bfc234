"""From declarations to the plan: those of a folder, or what is applied to a Feast store.

Reads them all and puts views, services, on-demand views and expectations in the plan's order;
``feast_views.py`` and ``feast_on_demand.py`` compile each of them.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.errors import FeatureError
from recsys.features.current_plan import definitions_hash
from recsys.features.entities import check_keys
from recsys.features.feast_on_demand import compile_on_demand
from recsys.features.feast_views import compile_view
from recsys.features.on_demand import FUNCTION_TAG
from recsys.features.plan import Plan
from recsys.features.quality.expectations import Expectation, of_field, of_view
from recsys.features.view import View


def compile_plan(repository: Path, *, project: str) -> Plan:
    """Compile the declarations in ``repository``.

    Raises:
        FeatureError: when something is declared that cannot be computed.
    """
    plan = _compile(_load_declarations(repository), project, {}, definitions_hash(repository))
    if not plan.views:
        raise FeatureError(f"wanted feature views in {repository}, found none")
    return plan


def plan_of_store(store: Any) -> Plan:
    """Compile what is applied to a ``feast.FeatureStore``: any repository's.

    Raises:
        FeatureError: when a view has a type the plan does not know.
    """
    from feast.infra.online_stores.helpers import compute_versioned_name

    views = [*store.list_batch_feature_views(), *store.list_stream_feature_views()]
    versioned = store.config.registry.enable_online_feature_view_versioning
    return _compile(
        [*views, *store.list_on_demand_feature_views(), *store.list_feature_services(),
         *store.list_entities()],
        store.project,
        {view.name: compute_versioned_name(view, versioned) for view in views},
        "",
    )  # fmt: skip


def _compile(
    declared: Sequence[Any], project: str, stored_names: Mapping[str, str], definitions: str
) -> Plan:
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView

    views = [v for v in declared if isinstance(v, FeatureView)]
    services = [s for s in declared if isinstance(s, FeatureService)]
    on_demand = {v.name: v for v in declared if isinstance(v, OnDemandFeatureView)}
    entities = {e.name: e for e in declared if isinstance(e, Entity)}
    compiled = {v.name: compile_view(v, entities, stored_names.get(v.name)) for v in views}
    for view in compiled.values():
        check_keys(view)
    columns: dict[str, Sequence[str]] = {v.name: v.feature_names for v in compiled.values()}
    columns |= {name: sorted(f.name for f in v.features) for name, v in on_demand.items()}
    named: dict[str, tuple[str, ...]] = {}
    for service in services:
        features: list[str] = []
        for projection in service.feature_view_projections:
            # A projection of a whole view may list nothing before it is applied.
            chosen = {f.name for f in projection.features} or set(columns[projection.name])
            features += [f"{projection.name}:{f}" for f in columns[projection.name] if f in chosen]
        named[service.name] = tuple(features)
    return Plan(
        project=project,
        views=tuple(compiled[name] for name in sorted(compiled)),
        services=dict(sorted(named.items())),
        definitions_hash=definitions,
        on_demand=tuple(
            compile_on_demand(on_demand[name], compiled)
            for name in sorted(on_demand)
            if FUNCTION_TAG in (on_demand[name].tags or {})
        ),
        expectations=tuple(e for v in views for e in _expectations(v, compiled[v.name])),
    )


def _expectations(declared: Any, view: View) -> list[Expectation]:
    """Give what the tags of a view and of its fields expect, in the plan's order."""
    tags = {field.name: field.tags or {} for field in declared.schema}
    found = [of_view(view.name, declared.tags or {})]
    found += [of_field(view.name, name, tags[name]) for name in view.feature_names]
    return [expectation for expectation in found if expectation is not None]


def _load_declarations(repository: Path) -> list[Any]:
    declared: list[Any] = []
    for file in sorted(repository.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"feature_repo_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise FeatureError(f"{file} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Feast calls its stream views experimental
            spec.loader.exec_module(module)
        declared += [v for k, v in vars(module).items() if not k.startswith("_")]
    return declared
