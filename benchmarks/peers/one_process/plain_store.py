"""The same features as plain values, in a Feast project of their own: what ``type: redis`` reads.

Our stream worker keeps the state from which windows are computed at the moment of reading; Feast's
own store reads values. So they are read through our plug-in and written by Feast, when a system is
prepared and again where values as of now are wanted::

    python -m benchmarks.peers.one_process.plain_store --from FILE --to FILE --users u0,u1 --items N

copies those of some users and of the items anew, from one ``feature_store.yaml`` to the other.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.loadtest.feature_keys import feature_keys
from benchmarks.peers.one_process.features import open_store

PROJECT = "plain"
_AT_ONCE = 2_000
_VIEWS = (
    "user_profile",
    "user_activity",
    "user_history",
    "user_category_activity",
    "item_activity",
)


def make_plain_store(
    config: Path, folder: Path, keys: Mapping[str, Sequence[dict[str, str]]]
) -> Path:
    """Write the values of ``keys`` (by view) into the Redis of ``config``; give the new config."""
    source = open_store(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import feast
        from feast.repo_config import load_repo_config

        folder.mkdir(parents=True, exist_ok=True)
        online = source.config.online_store
        file = folder / "feature_store.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "project": PROJECT,
                    "provider": "local",
                    "entity_key_serialization_version": 3,
                    "registry": {
                        "registry_type": "file",
                        "path": str(folder / "registry.db"),
                        "cache_ttl_seconds": 86_400,
                    },
                    "online_store": {
                        "type": "redis",
                        "connection_string": str(online.connection_string),
                    },
                    "offline_store": {"type": "file"},
                }
            )
        )
        store = feast.FeatureStore(config=load_repo_config(folder, file))
        entities = source.list_entities()
        declared = {
            view.name: view
            for view in [*source.list_feature_views(), *source.list_stream_feature_views()]
        }
        views = [_plain(declared[name], entities, folder) for name in _VIEWS]
        store.apply([*entities, *views])
        for view in views:
            _copy(source, store, view, keys[view.name])
    return file


def copy_values(config: Path, plain: Path, keys: Mapping[str, Sequence[dict[str, str]]]) -> None:
    """Write the values of ``keys`` as of now into the store of ``plain``, made from ``config``."""
    source, store = open_store(config), open_store(plain)
    for name, wanted in keys.items():
        _copy(source, store, store.get_feature_view(name), wanted)


def main(argv: Sequence[str] | None = None) -> int:
    """Copy and end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.one_process.plain_store")
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--users", required=True)
    parser.add_argument("--items", type=int, required=True, help="of the bundle")
    options = parser.parse_args(argv)
    keys = feature_keys(options.users.split(","), options.items)
    copy_values(options.source, options.to, keys)
    return 0


def _plain(declared: Any, entities: list[Any], folder: Path) -> Any:
    import feast

    names = {field.name for field in declared.entity_columns}
    rows = feast.FileSource(
        name=f"{declared.name}_rows",
        path=str(folder / f"{declared.name}.parquet"),
        timestamp_field="event_timestamp",
    )
    return feast.FeatureView(
        name=declared.name,
        entities=[entity for entity in entities if entity.join_key in names],
        ttl=timedelta(days=3650),
        schema=[feast.Field(name=field.name, dtype=field.dtype) for field in declared.features],
        source=rows,
    )


def _copy(source: Any, store: Any, view: Any, keys: Sequence[dict[str, str]]) -> None:
    names = [field.name for field in view.features]
    now = datetime.now(UTC)
    for begin in range(0, len(keys), _AT_ONCE):
        part = list(keys[begin : begin + _AT_ONCE])
        found = source.get_online_features(
            features=[f"{view.name}:{name}" for name in names], entity_rows=part
        ).to_dict()
        frame = pd.DataFrame(found)
        frame = frame[frame[names].notna().any(axis=1)]
        if len(frame):
            frame["event_timestamp"] = now
            store.write_to_online_store(view.name, frame)


if __name__ == "__main__":
    sys.exit(main())
