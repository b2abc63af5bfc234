"""From Feast's words to ours: which columns of which source answer a historical request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.utils import _parse_feature_ref

from recsys.errors import FeatureError, InputError
from recsys.features.offline_store.join import Joined, ViewJoin
from recsys.features.offline_store.latest import everything
from recsys.features.offline_store.parts import Parts
from recsys.features.offline_store.sources import parts_of
from recsys.features.offline_store.times import moments_of

EVENT_TIMESTAMP = "event_timestamp"


class Labels:
    """The entity frame: every column as it came, and the moments as UTC.

    Attributes:
        table: Columns of the caller's frame (L,), in its order.
        moment: Name of the moments' column.
        first, last: Earliest and latest moment, None without any.

    Raises:
        InputError: it is no frame.
    """

    def __init__(self, entity_df: Any) -> None:
        if isinstance(entity_df, pl.DataFrame):
            entity_df = entity_df.to_arrow()
        if isinstance(entity_df, pa.Table):
            entity_df = entity_df.to_pandas(types_mapper=pd.ArrowDtype)
            for name, kind in entity_df.dtypes.items():
                if pa.types.is_timestamp(kind.pyarrow_dtype):
                    entity_df[name] = pd.to_datetime(entity_df[name].astype(object), utc=True)
        if not isinstance(entity_df, pd.DataFrame):
            found = "an SQL query" if isinstance(entity_df, str) else type(entity_df).__name__
            raise InputError(
                f"entity_df: wanted a pandas, Polars or Arrow table, found {found}; this store "
                "reads Parquet files and has no SQL to run: read the labels into a frame first",
                field="entity_df",
            )
        self.moment: str = infer_event_timestamp_from_entity_df(
            dict(zip(entity_df.columns, entity_df.dtypes, strict=True))
        )
        moments = moments_of(entity_df[self.moment])
        known = moments.dropna()
        self.first = known.min().to_pydatetime(warn=False) if len(known) else None
        self.last = known.max().to_pydatetime(warn=False) if len(known) else None
        frame = entity_df.assign(**{self.moment: moments})
        self.table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)

    def require(self, views: Sequence[Joined]) -> None:
        """Check that every key is there and that no column would be there twice.

        Raises:
            FeastEntityDFMissingColumnsError: a join key is missing.
            InputError: a feature has the name of a column of the frame.
        """
        have = set(self.table.column_names)
        wanted = {name for view in views for name in view.label_keys}
        if wanted - have:
            raise FeastEntityDFMissingColumnsError(  # type: ignore[no-untyped-call]
                wanted, wanted - have
            )
        for view in views:
            twice = have & set(view.names)
            if twice:
                raise InputError(
                    f"features {sorted(twice)} of view {view.name!r} have the names of columns of "
                    "entity_df; rename those columns or pass full_feature_names=True",
                    field=min(twice),
                )


def view_joins(
    feature_views: Sequence[FeatureView],
    feature_refs: Sequence[str],
    repo_path: Any,
    *,
    full_feature_names: bool,
    knowledge: bool,
) -> list[ViewJoin]:
    """What to fetch from each view, in the order Feast gave them.

    Raises:
        FeatureError: a view has no source, or its source lacks a column.
    """
    joins = []
    for view in feature_views:
        if view.batch_source is None:
            raise FeatureError(
                f'feature view "{view.name}" has no batch source, so it has no history; give its '
                "stream source a batch_source"
            )
        source = view.batch_source
        parts = parts_of(source, repo_path)
        prefix = str(view.projection.name_to_use())  # type: ignore[no-untyped-call]
        shown = view.projection.name_alias or view.name
        names = [feature for ref in feature_refs for feature in _of_view(ref, prefix)]
        keys = view.projection.join_key_map or {
            column.name: column.name for column in view.entity_columns
        }
        join = ViewJoin(
            name=shown,
            parts=parts,
            keys=tuple(
                (source_column(parts, source.field_mapping, key), label)
                for key, label in keys.items()
                if key != DUMMY_ENTITY_ID
            ),
            timestamp=source_column(parts, source.field_mapping, source.timestamp_field),
            created=(
                source_column(parts, source.field_mapping, source.created_timestamp_column)
                if source.created_timestamp_column
                else None
            ),
            ttl=view.ttl,
            features=tuple(
                (
                    source_column(parts, source.field_mapping, name),
                    f"{shown}__{name}" if full_feature_names else name,
                )
                for name in dict.fromkeys(names)
            ),
            knowledge=knowledge,
        )
        parts.types([key for key, _ in join.keys] + [f for f, _ in join.features])
        parts.types([join.timestamp] + ([join.created] if join.created else []))
        joins.append(join)
    return joins


def source_column(parts: Parts, mapping: dict[str, str], name: str) -> str:
    """The column of the source behind a name of the view, through the source's field mapping."""
    for original, mapped in mapping.items():
        if mapped == name and original in parts.schema.names:
            return original
    return name


def labels_in_range(views: Sequence[ViewJoin], start: datetime, end: datetime) -> pa.Table:
    """Labels for a request without entities: each key at each event time in ``[start, end]``.

    Raises:
        InputError: the views are of different entities, so that no row could hold both.
    """
    shapes = {tuple(sorted(label for _, label in view.keys)) for view in views}
    if len(shapes) != 1:
        raise InputError(
            f"retrieval without entity_df: wanted views of one entity, found views by "
            f"{sorted(shapes)}; ask for each entity's views apart, or pass entity_df",
            field="entity_df",
        )
    frames = []
    for view in views:
        keys = [source for source, _ in view.keys]
        table = everything(view.parts, keys, [], view.timestamp, None, start, end, 1 << 27)
        frame: pl.DataFrame = pl.from_arrow(table)  # type: ignore[assignment]
        moment = pl.col(view.timestamp)
        kind = frame.schema[view.timestamp]
        if isinstance(kind, pl.Datetime):
            moment = moment.cast(pl.Int64).cast(pl.Datetime(kind.time_unit, "UTC"))
        else:
            moment = moment.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        columns = [pl.col(source).alias(label) for source, label in view.keys]
        frames.append(
            frame.select(moment.cast(pl.Datetime("ns", "UTC")).alias(EVENT_TIMESTAMP), *columns)
        )
    names = sorted(label for _, label in views[0].keys)
    labels = pl.concat([f.select(EVENT_TIMESTAMP, *names) for f in frames], how="vertical_relaxed")
    return labels.unique().sort([EVENT_TIMESTAMP, *names]).to_arrow()


def utc(moment: datetime) -> datetime:
    """Feast's rule for its own arguments: a naive time is UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _of_view(ref: str, prefix: str) -> list[str]:
    name, version, feature = _parse_feature_ref(ref)
    return [feature] if prefix == (name if version is None else f"{name}@v{version}") else []
