"""From Feast's words to ours: which columns of which source answer a historical request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.entity import Entity
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME, FeatureView
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.utils import _parse_feature_ref

from recsys.errors import FeatureError, InputError
from recsys.features.feast_views import compile_view
from recsys.features.names import STREAMED
from recsys.features.offline_store.computed import ComputedView
from recsys.features.offline_store.event_views import EventViews
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


class EventLogRequest:
    """Which views the event log answers, and how.

    Args:
        event_log_dir: As configured; relative to the repository.
        repo_path: Folder of the Feast repository.
        project: Feast's, and the namespace of the log's topics.
        entity: Gives a declared entity by its name.
    """

    def __init__(
        self,
        event_log_dir: str,
        repo_path: Any,
        project: str,
        entity: Callable[[str], Entity],
    ) -> None:
        self._views = EventViews(Path(repo_path or ".") / event_log_dir, project)
        self._entity = entity

    def join(
        self,
        view: FeatureView,
        keys: Mapping[str, str],
        features: Mapping[str, str],
        *,
        knowledge: bool,
    ) -> ComputedView | None:
        """What computes a view; None for one that the stream does not make.

        Raises:
            FeatureError: the stream could not make what is declared.
        """
        if not (getattr(view, "aggregations", None) or view.name in STREAMED):
            return None
        entities = {name: self._entity(name) for name in view.entities if name != DUMMY_ENTITY_NAME}
        compiled = compile_view(view, entities)
        for feature in features:
            compiled.feature(feature)
        return ComputedView(
            name=view.name,
            computes=self._views.of(compiled),
            keys=tuple(keys.items()),
            features=tuple(features.items()),
            knowledge=knowledge,
        )


def view_joins(
    feature_views: Sequence[FeatureView],
    feature_refs: Sequence[str],
    repo_path: Any,
    *,
    full_feature_names: bool,
    knowledge: bool,
    events: EventLogRequest | None = None,
) -> list[ViewJoin | ComputedView]:
    """What to fetch from each view, in the order Feast gave them.

    Raises:
        FeatureError: a view has no source, or its source lacks a column.
    """
    joins: list[ViewJoin | ComputedView] = []
    for view in feature_views:
        prefix = str(view.projection.name_to_use())  # type: ignore[no-untyped-call]
        shown = view.projection.name_alias or view.name
        names = [feature for ref in feature_refs for feature in _of_view(ref, prefix)]
        answers = {
            name: f"{shown}__{name}" if full_feature_names else name
            for name in dict.fromkeys(names)
        }
        keys = view.projection.join_key_map or {
            column.name: column.name for column in view.entity_columns
        }
        computed = (
            events.join(view, keys, answers, knowledge=knowledge) if events is not None else None
        )
        if computed is not None:
            joins.append(computed)
            continue
        joins.append(_source_join(view, shown, keys, answers, repo_path, knowledge=knowledge))
    return joins


def _source_join(
    view: FeatureView,
    name: str,
    keys: Mapping[str, str],
    answers: Mapping[str, str],
    repo_path: Any,
    *,
    knowledge: bool,
) -> ViewJoin:
    """Give what to fetch from the batch source of a view; see ``view_joins``."""
    if view.batch_source is None:
        raise FeatureError(
            f'feature view "{view.name}" has no batch source, so it has no history; give its '
            "stream source a batch_source"
        )
    source = view.batch_source
    parts = parts_of(source, repo_path)
    join = ViewJoin(
        name=name,
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
            (source_column(parts, source.field_mapping, feature), answer)
            for feature, answer in answers.items()
        ),
        knowledge=knowledge,
    )
    parts.types([key for key, _ in join.keys] + [f for f, _ in join.features])
    parts.types([join.timestamp] + ([join.created] if join.created else []))
    return join


def source_column(parts: Parts, mapping: dict[str, str], name: str) -> str:
    """The column of the source behind a name of the view, through the source's field mapping."""
    for original, mapped in mapping.items():
        if mapped == name and original in parts.schema.names:
            return original
    return name


def labels_in_range(
    joins: Sequence[ViewJoin | ComputedView], start: datetime, end: datetime
) -> pa.Table:
    """Labels for a request without entities: each key at each event time in ``[start, end]``.

    Raises:
        InputError: the views are of different entities, so that no row could hold both; or one is
            computed, and has no rows.
    """
    views = [view for view in joins if isinstance(view, ViewJoin)]
    if len(views) < len(joins):
        computed = [view.name for view in joins if isinstance(view, ComputedView)]
        raise InputError(
            f"retrieval without entity_df: wanted views of rows, found {computed}, computed from "
            "the event log at any moment; pass entity_df with the moments wanted",
            field="entity_df",
        )
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
