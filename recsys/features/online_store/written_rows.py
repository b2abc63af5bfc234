"""From Feast's rows to what is written: keys and framed values, for ``column_writer.py``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from feast import FeatureView, RepoConfig, utils
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from recsys.errors import ConfigurationError
from recsys.features.batch import Int64s
from recsys.features.feast_views import STORED_TAG
from recsys.features.online_store.placement import stored_name
from recsys.features.row_packer import RowPacker
from recsys.features.value_encoding import frame
from recsys.features.view import View

Row = tuple[EntityKey, dict[str, ValueProto], datetime, datetime | None]
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def check_is_written(table: FeatureView) -> None:
    """Raise ConfigurationError for a view whose values are not read but made from state."""
    if STORED_TAG in (table.tags or {}):
        raise ConfigurationError(
            f'view "{table.name}" has the tag {STORED_TAG}="state": the stream worker makes it, '
            "and readers read its state, so rows written here would never be seen; name the other "
            "views (`feast materialize --views ...`), or take the tag away"
        )


def packed_rows(
    config: RepoConfig, table: FeatureView, data: Sequence[Row]
) -> list[tuple[RowPacker, list[bytes], list[bytes], list[bytes], Int64s]]:
    """Give what ``write_packed`` takes for each set of features of rows (there is mostly one)."""
    store = config.online_store
    stored = stored_name(config, table)
    packer = RowPacker(
        View(name=stored, join_keys=(), features=(), ttl_ms=0),
        config.project,
        key_ttl_s=store.key_ttl_seconds or 0,
        ties=store.equal_time,
    )
    groups: dict[tuple[str, ...], tuple[list[bytes], list[int], list[bytes]]] = {}
    for entity_key, values, moment, _ in data:
        keys, times_us, rows = groups.setdefault(tuple(values), ([], [], []))
        keys.append(
            _redis_key(
                config.project, entity_key,
                entity_key_serialization_version=config.entity_key_serialization_version,
            )
        )  # fmt: skip
        aware = utils.make_tzaware(moment)
        times_us.append((aware - _EPOCH) // _MICROSECOND)
        rows.append(b"".join(frame([value.SerializeToString() for value in values.values()])))
    return [
        (
            packer,
            keys,
            rows,
            [_mmh3(f"{stored}:{name}") for name in names],
            np.array(times_us, dtype=np.int64),
        )
        for names, (keys, times_us, rows) in groups.items()
    ]
