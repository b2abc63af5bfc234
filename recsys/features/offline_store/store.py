"""The store as Feast sees it: names and signatures are Feast's, the work is done elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import compute_non_entity_date_range
from pydantic import Field

from recsys.errors import ConfigurationError, InputError
from recsys.features.offline_store.join import join_views
from recsys.features.offline_store.latest import everything, latest
from recsys.features.offline_store.request import (
    EventLogRequest,
    Labels,
    labels_in_range,
    utc,
    view_joins,
)
from recsys.features.offline_store.retrieval_job import PointInTimeRetrievalJob
from recsys.features.offline_store.sources import located, parts_of
from recsys.features.offline_store.writes import append, append_by

_LEAST_LABELS = 1 << 16  # joined at once when saving: each time the sources' keys are read anew


class PointInTimeOfflineStoreConfig(FeastConfigBaseModel):
    """``offline_store`` in ``feature_store.yaml``."""

    type: Literal["recsys.features.offline_store.PointInTimeOfflineStore"] = (
        "recsys.features.offline_store.PointInTimeOfflineStore"
    )
    memory_limit_mb: int = Field(default=512, ge=16)
    """MiB to work in, beyond the labels and the answer: how much of a source is held at once."""

    ray_partitions: int = Field(default=0, ge=0)
    """Join each view in so many Ray tasks (``RAY_ADDRESS`` names a cluster); 0: in this process."""

    event_log_dir: str = ""
    """Folder of the stream worker's event log, relative to the repository; the views the stream
    makes are then computed from it at each label's moment. Empty: they are joined as rows."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a source to read at once; its codes, times and sorted copies take the rest."""
        return self.memory_limit_mb * (1 << 20) // 4


class PointInTimeOfflineStore(OfflineStore):
    """Point-in-time joins over Parquet; see docs/offline-store.md for what a value at a time is."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> PointInTimeRetrievalJob:
        """Features of every label as they were at its moment, in the labels' order.

        Without ``entity_df`` the labels are the keys and event times of the views' own rows between
        ``start_date`` and ``end_date``.
        """
        views = view_joins(
            feature_views,
            feature_refs,
            config.repo_path,
            full_feature_names=full_feature_names,
            knowledge=filter_by_created_timestamp,
            events=_event_log(config, registry, project),
        )
        first: datetime | None
        last: datetime | None
        if entity_df is None:
            first, last = compute_non_entity_date_range(
                feature_views, start_date=start_date, end_date=end_date
            )
            labels = Labels(labels_in_range(views, utc(first), utc(last)))
        else:
            labels = Labels(entity_df)
            first, last = labels.first, labels.last
        labels.require(views)
        chunk_bytes = config.offline_store.chunk_bytes
        partitions = config.offline_store.ray_partitions

        def join(some: pa.Table) -> pa.Table:
            if partitions:
                from recsys.features.offline_store.ray_tasks import join_on_ray

                return join_on_ray(some, labels.moment, views, chunk_bytes, partitions)
            return join_views(some, labels.moment, views, chunk_bytes)

        def pieces() -> Iterator[pa.Table]:
            row_bytes = sum(view.row_bytes for view in views)
            size = max(chunk_bytes // max(row_bytes, 1), _LEAST_LABELS)
            for start in range(0, max(labels.table.num_rows, 1), size):
                yield join(labels.table.slice(start, size))

        return PointInTimeRetrievalJob(
            lambda: join(labels.table),
            pieces=pieces,
            repo_path=config.repo_path,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
                feature_refs, project, registry
            ),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in labels.table.column_names if name != labels.moment],
                min_event_timestamp=first,
                max_event_timestamp=last,
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> PointInTimeRetrievalJob:
        """The newest row of each key by (event time, created time, position) in the range."""

        def evaluate() -> pa.Table:
            table = latest(
                parts_of(data_source, config.repo_path),
                join_key_columns, feature_name_columns, timestamp_field,
                created_timestamp_column or None, utc(start_date), utc(end_date),
                config.offline_store.chunk_bytes,
            )  # fmt: skip
            return _with_key(table, join_key_columns)

        return PointInTimeRetrievalJob(evaluate, repo_path=config.repo_path)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> PointInTimeRetrievalJob:
        """All rows in the range, in the source's order."""

        def evaluate() -> pa.Table:
            table = everything(
                parts_of(data_source, config.repo_path),
                join_key_columns, feature_name_columns, timestamp_field,
                created_timestamp_column or None, start_date, end_date,
                config.offline_store.chunk_bytes,
            )  # fmt: skip
            return _with_key(table, join_key_columns)

        return PointInTimeRetrievalJob(evaluate, repo_path=config.repo_path)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to a view's source as a new part; nothing there is touched.

        Raises:
            InputError: the columns are not the source's.
        """
        source = feature_view.batch_source
        parts = parts_of(source, config.repo_path)
        assert source is not None  # parts_of says so otherwise
        # Feast has applied the field mapping on its way here; the file has the original names.
        original = {mapped: name for name, mapped in source.field_mapping.items()}
        table = table.rename_columns(
            [n if n in parts.schema.names else original.get(n, n) for n in table.column_names]
        )
        if set(table.column_names) != set(parts.schema.names):
            raise InputError(
                f'view "{feature_view.name}": wanted columns {parts.schema.names}, '
                f"found {table.column_names}"
            )
        try:
            table = table.select(parts.schema.names).cast(parts.schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f'view "{feature_view.name}": the rows do not fit the source\'s types: {error}'
            ) from error
        append(*located(source, config.repo_path), table)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Append logged features to their destination, a folder of parts."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise ConfigurationError(
                f"feature logs: wanted FileLoggingDestination, found {type(destination).__name__}"
            )
        table = data if isinstance(data, pa.Table) else pq.read_table(data)
        filesystem, path = located(destination.to_data_source(), config.repo_path)
        append_by(filesystem, path, table, destination.partition_by or [])

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """Columns of all part files together, for folders and patterns as for one file."""
        schema = parts_of(data_source, config.repo_path).schema
        return [(field.name, str(field.type)) for field in schema]


def _with_key(table: pa.Table, join_keys: list[str]) -> pa.Table:
    """Rows of a view without entities have the key Feast gives such views when it writes them."""
    if join_keys:
        return table
    return table.append_column(
        DUMMY_ENTITY_ID, pa.repeat(pa.scalar(DUMMY_ENTITY_VAL, pa.string()), table.num_rows)
    )


def _event_log(config: RepoConfig, registry: BaseRegistry, project: str) -> EventLogRequest | None:
    folder = config.offline_store.event_log_dir
    if not folder:
        return None
    return EventLogRequest(
        folder, config.repo_path, project, lambda name: registry.get_entity(name, project)
    )
