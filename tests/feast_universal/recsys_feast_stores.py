"""What Feast's suite asks of a store, for ours: Feast imports it (``FULL_REPO_CONFIGS_MODULE``).

Runs where ``tests`` is Feast's package, not this repository's.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FileSource
from feast.repo_config import FeastConfigBaseModel
from tests.universal.feature_repos.universal.data_sources import file
from tests.universal.feature_repos.universal.online_store_creator import OnlineStoreCreator

from recsys.features.offline_store import PointInTimeOfflineStoreConfig


def _offline_store(_: Any) -> FeastConfigBaseModel:
    return PointInTimeOfflineStoreConfig()


# The suite falls back on this creator for tests of online stores, and takes it where a test asks
# for the "file" store: it shall mean ours everywhere.
file.FileDataSourceCreator.create_offline_store_config = _offline_store


class PlainFileDataSourceCreator(file.FileDataSourceCreator):
    """One Parquet file for each source."""


class FolderDataSourceCreator(file.FileDataSourceCreator):
    """A folder of two Parquet parts for each source."""

    def create_data_source(
        self,
        df: pd.DataFrame,
        destination_name: str,
        created_timestamp_column: str = "created_ts",
        field_mapping: dict[str, str] | None = None,
        timestamp_field: str | None = "ts",
    ) -> FileSource:
        folder = tempfile.mkdtemp(prefix=self.get_prefixed_table_name(destination_name))
        self.dirs.append(folder)
        table = pa.Table.from_pandas(df, preserve_index=False)
        half = (len(df) + 1) // 2
        pq.write_table(table.slice(0, half), f"{folder}/part-0.parquet")
        pq.write_table(table.slice(half), f"{folder}/part-1.parquet")
        return FileSource(
            path=folder,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=field_mapping or {"ts_1": "ts"},
        )


class DefaultOnlineStoreCreator(OnlineStoreCreator):
    """The online store as it comes: rows older than the view's TTL are not given."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, project_name: str, **_: Any) -> None:
        super().__init__(project_name)

    def create_online_store(self) -> dict[str, Any]:
        return {
            "type": "recsys.features.online_store.BulkRedisOnlineStore",
            "connection_string": os.environ["FEAST_SUITE_REDIS"],
            **self.options,
        }

    def teardown(self) -> None:
        """The project's keys go with ``store.teardown()``, the server with the run."""


class KeepingOnlineStoreCreator(DefaultOnlineStoreCreator):
    """With Feast's meaning of TTL: rows are given however old they are."""

    options: ClassVar[dict[str, Any]] = {"keep_expired_values": True}


AVAILABLE_OFFLINE_STORES = [
    ("local", PlainFileDataSourceCreator),
    ("local", FolderDataSourceCreator),
]
_ONLINE = {"Default": DefaultOnlineStoreCreator, "Keeping": KeepingOnlineStoreCreator}
# "redis" is the key that tests of Redis alone, and of offline stores, look for.
AVAILABLE_ONLINE_STORES = {"redis": ("redis", _ONLINE[os.environ["FEAST_SUITE_ONLINE"]])}
