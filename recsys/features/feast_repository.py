"""The one module that imports Feast: applies ``feature_repo`` and compiles it to the plan.

Usage::

    recsys features apply       # feast apply, then compile
    recsys features compile     # the plan alone, no registry
    recsys features env         # prints the exports Feast needs
    recsys features feast ui    # any Feast command, those set

``apply`` writes ``<state_dir>/feast.db``, Feast's registry, and ``<state_dir>/plan.json``.

The repository's own ``feature_store.yaml`` has the default addresses, so that Feast's commands work
in it as they are. Where the settings differ, Feast is pointed at a copy that has theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import mmh3
import msgspec

from recsys.endpoints import resolve
from recsys.errors import FeatureError, RecsysError
from recsys.features import names
from recsys.features.aggregation import Aggregate
from recsys.features.current_plan import compiling, default_repository, definitions_hash
from recsys.features.entities import check_keys
from recsys.features.on_demand import (
    FUNCTION_TAG,
    OUTPUT_TYPES,
    OUTPUTS_TAG,
    OnDemandView,
    parameters_of,
)
from recsys.features.plan import PLAN_FILE, Plan, load
from recsys.features.plan_history import PlanHistory
from recsys.features.quality.expectations import Expectation, of_field, of_view
from recsys.features.redis.address import parse
from recsys.features.view import Feature, KeyType, ValueType, View
from recsys.settings import Settings

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


def compile_on_demand(view: Any, views: Mapping[str, View]) -> OnDemandView:
    """Compile an on-demand view whose tags name its function; others are Feast's alone.

    Raises:
        FeatureError: when a parameter of the function is none of its inputs, or two; or its
            outputs are not those of the schema.
    """
    sources: dict[str, list[str]] = {}
    for request in view.source_request_sources.values():
        for field in request.schema:
            sources.setdefault(field.name, []).append(field.name)
    for projection in view.source_feature_view_projections.values():
        chosen = {f.name for f in projection.features} or set(views[projection.name].feature_names)
        for name in sorted(chosen):
            full = f"{projection.name}:{name}"
            sources.setdefault(name, []).append(full)
            sources.setdefault(f"{projection.name}__{name}", []).append(full)
    function = view.tags[FUNCTION_TAG]
    inputs = []
    for name in parameters_of(function):
        found = sources.get(name, [])
        if len(found) != 1:
            raise FeatureError(
                f'on-demand view "{view.name}": wanted parameters of {function} among '
                f'{", ".join(sorted(sources))}; found "{name}"'
                + (f", which is {' and '.join(found)}" if found else "")
            )
        inputs += found
    outputs = tuple(view.tags.get(OUTPUTS_TAG, "").split(","))
    declared = sorted(f.name for f in view.features)
    if sorted(outputs) != declared:
        raise FeatureError(
            f'on-demand view "{view.name}": wanted tag {OUTPUTS_TAG} to name '
            f"{', '.join(declared)}; found {', '.join(outputs)}"
        )
    types = {f.name: _TYPES.get(_type_name(f.dtype), "") for f in view.features}
    strange = sorted(name for name, kind in types.items() if kind not in OUTPUT_TYPES)
    if strange:
        raise FeatureError(
            f'on-demand view "{view.name}": wanted outputs of {", ".join(OUTPUT_TYPES)}; found '
            f"others in {', '.join(strange)}"
        )
    return OnDemandView(
        name=view.name,
        function=function,
        inputs=tuple(inputs),
        outputs=outputs,
        output_types=tuple(types[name] for name in outputs),
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
        kind = _TYPES.get(_type_name(field.dtype))
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


def _type_name(dtype: Any) -> str:
    base = getattr(dtype, "base_type", None)
    return f"Array({_type_name(base)})" if base is not None else str(dtype).split(".")[-1]


def _ms(duration: timedelta | None) -> int:
    return 0 if duration is None else duration // timedelta(milliseconds=1)


def feast_environment(settings: Settings, repository: Path) -> dict[str, str]:
    """Give the variables that make Feast use ``settings``; writes the file they name.

    The address of Redis may have a password, so it is in a variable and not in the file.
    """
    import yaml

    file = settings.state_dir.resolve() / "feature_store.yaml"
    config = yaml.safe_load((repository / "feature_store.yaml").read_text())
    config["project"] = settings.namespace
    config["registry"]["path"] = str(file.with_name("feast.db"))
    config["offline_store"]["event_log_dir"] = str(settings.event_log_dir.resolve())
    url = resolve(settings).redis_url or f"redis://{settings.host}:{settings.redis_port}"
    config["online_store"]["connection_string"] = "${RECSYS_FEAST_REDIS}"
    config["online_store"]["redis_type"] = "redis_cluster" if parse(url).is_cluster else "redis"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(yaml.safe_dump(config))
    temporary.replace(file)
    return {
        "FEAST_FS_YAML_FILE_PATH": str(file),
        "RECSYS_FEAST_REDIS": feast_connection_string(url),
    }


def feast_connection_string(url: str) -> str:
    """Give Feast's spelling of a Redis address. (Replicas and Unix sockets Feast does not know.)

    >>> feast_connection_string("rediss://app:pa%20ss@cache:6380/2?ssl_ca_certs=/ca.pem")
    'cache:6380,username=app,password=pa ss,db=2,ssl=true,ssl_ca_certs=/ca.pem'
    """
    address = parse(url)
    options = []
    if address.username:
        options.append(f"username={address.username}")
    if address.password:
        options.append(f"password={address.password}")
    if address.database:
        options.append(f"db={address.database}")
    if address.tls is not None:
        options.append("ssl=true")
        files = ("ca_certs", "certfile", "keyfile")
        options += [f"ssl_{n}={path}" for n in files if (path := getattr(address.tls, n))]
        if not address.tls.verify:
            options.append("ssl_cert_reqs=none")
        if not address.tls.verify or not address.tls.check_hostname:
            options.append("ssl_check_hostname=false")
    return ",".join([*map(str, address.nodes), *options])


def apply(settings: Settings, repository: Path) -> Plan:
    """Register the declarations with Feast and write the plan."""
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    environment = feast_environment(settings, repository)
    os.environ.update(environment)
    with warnings.catch_warnings(), contextlib.chdir(repository):
        warnings.simplefilter("ignore")
        sys.path.insert(0, str(repository))  # Feast imports the declarations by their bare name
        try:
            config = load_repo_config(repository, Path(environment["FEAST_FS_YAML_FILE_PATH"]))
            apply_total(config, repository, skip_source_validation=True)
        finally:
            sys.path.remove(str(repository))
            for file in repository.glob("*.py"):  # so that another repository's are not these
                if getattr(sys.modules.get(file.stem), "__file__", None) == str(file):
                    del sys.modules[file.stem]
    plan = compile_plan(repository, project=settings.namespace)
    plan.dump(settings.state_dir / PLAN_FILE)
    return plan


def _run_feast(settings: Settings, repository: Path, arguments: list[str]) -> int:
    environment = os.environ | feast_environment(settings, repository)
    command = [str(Path(sys.executable).with_name("feast")), "--chdir", str(repository), *arguments]
    os.execve(command[0], command, environment)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it succeeded."""
    parser = argparse.ArgumentParser(prog="recsys features")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("apply", "register with Feast and compile the plan"),
        ("compile", "compile the plan"),
        ("env", "print the exports Feast needs"),
        ("feast", "run a Feast command with them"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--repository", type=Path, default=default_repository())
        if name == "compile":
            command.add_argument("--out", type=Path)
            command.add_argument("--project")
        if name == "feast":
            command.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    settings = Settings()
    repository: Path = options.repository.resolve()
    try:
        if options.command == "env":
            for name, value in feast_environment(settings, repository).items():
                sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
        elif options.command == "feast":
            return _run_feast(settings, repository, options.arguments)
        elif options.command == "apply":
            history = PlanHistory(settings.state_dir)
            with compiling(settings.state_dir):  # a worker that starts meanwhile waits for us
                with contextlib.suppress(FeatureError):
                    history.record(load(settings.state_dir / PLAN_FILE))
                plan = apply(settings, repository)
                history.record(plan)
            path = settings.state_dir / PLAN_FILE
            sys.stdout.write(f"applied {plan.project}; plan {plan.schema_hash} in {path}\n")
        else:
            plan = compile_plan(repository, project=options.project or settings.namespace)
            plan.dump(options.out or settings.state_dir / PLAN_FILE)
            sys.stdout.write(f"plan {plan.schema_hash}\n")
    except RecsysError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
