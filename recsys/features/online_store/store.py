"""The plug-in: Feast's Redis store with bulk reads, TTLs and atomic newer-wins writes.

A subclass of Feast's own store: the bytes are the same, and what is not overridden (deleting,
sentinels, precomputed vectors, document search) is Feast's. The configuration is beside it, where
Feast looks for it: it finds a store's class in the module of its configuration's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from feast import FeatureService, FeatureView, RepoConfig, utils
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from recsys.errors import FeatureError
from recsys.features.column_writer import AsyncColumnWriter, ColumnWriter
from recsys.features.feast_views import compile_made
from recsys.features.online_store.placement import is_ours, stored_name, url_of_store
from recsys.features.online_store.read_rows import ReadRow, populate, rows_of, visible
from recsys.features.online_store.request import Pending, Requests, decode
from recsys.features.online_store.response import ColumnarResponse
from recsys.features.online_store.written_rows import Row, check_is_written, packed_rows
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import hmgets
from recsys.features.redis_hashes import checked

_TYPE: Literal["recsys.features.online_store.BulkRedisOnlineStore"] = (
    "recsys.features.online_store.BulkRedisOnlineStore"
)


class BulkRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """What ``type: redis`` takes, and:"""

    type: Literal["recsys.features.online_store.BulkRedisOnlineStore"] = _TYPE  # type: ignore[assignment]
    keep_expired_values: bool = False
    """Give values older than their view's TTL (status OUTSIDE_MAX_AGE either way); else null."""
    equal_time: Literal["replace", "keep"] = "replace"
    """Of two rows of one event time: the one written later, or as Feast has it the first."""
    timeout_seconds: float = 2.0
    """Longest a read may take."""


class BulkRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis online store, read and written in bulk."""

    def __init__(self) -> None:
        self._bulk: RedisClient | None = None
        self._bulk_async: AsyncRedisClient | None = None
        self._requests = Requests()

    # Reading

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Give features of entities, as Feast does: see ``docs/online-store.md``."""
        if not include_feature_view_version_metadata and is_ours(config):
            pending = self._requests.pending(
                config, features, entity_rows, registry, project, full_feature_names
            )
            if pending is not None:
                client = self._client_of(config)
                found = client.read(pending.commands)
                answer = _answer(config, pending, checked(client, found))
                if answer is not None:
                    return answer
        return super().get_online_features(
            config, features, entity_rows, registry, project, full_feature_names,
            include_feature_view_version_metadata,
        )  # fmt: skip

    async def get_online_features_async(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Give features of entities on an event loop."""
        if not include_feature_view_version_metadata and is_ours(config):
            pending = self._requests.pending(
                config, features, entity_rows, registry, project, full_feature_names
            )
            if pending is not None:
                client = self._async_client_of(config)
                found = await client.read(pending.commands)
                answer = _answer(config, pending, checked(client, found))
                if answer is not None:
                    return answer
        return await super().get_online_features_async(
            config, features, entity_rows, registry, project, full_feature_names,
            include_feature_view_version_metadata,
        )  # fmt: skip

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """Give the rows of a view; ``(None, None)`` where there is none or its TTL has passed."""
        names = requested_features or [field.name for field in table.features]
        if not is_ours(config):
            rows: list[ReadRow] = super().online_read(config, table, entity_keys, list(names))
            return rows
        keys, fields = self._wanted(config, table, entity_keys, names)
        client = self._client_of(config)
        found = checked(client, client.call(keys, hmgets(keys, fields), read_only=True))
        return [visible(row, config) for row in rows_of(config, table, names, found)]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """Give the rows of a view, on an event loop."""
        names = requested_features or [field.name for field in table.features]
        if not is_ours(config):
            rows: list[ReadRow] = await super().online_read_async(
                config, table, entity_keys, list(names)
            )
            return rows
        keys, fields = self._wanted(config, table, entity_keys, names)
        client = self._async_client_of(config)
        found = checked(client, await client.call(keys, hmgets(keys, fields), read_only=True))
        return [visible(row, config) for row in rows_of(config, table, names, found)]

    def _wanted(
        self, config: RepoConfig, table: FeatureView, entity_keys: Any, names: Sequence[str]
    ) -> tuple[list[bytes], tuple[bytes, ...]]:
        stored = stored_name(config, table)
        _, fields = self._generate_hset_keys_for_features(table, list(names), stored)
        packed = tuple(f.encode() if isinstance(f, str) else f for f in fields)
        if (streamed := compile_made(table)) is not None:
            packed = (*packed, streamed.state_field)
        return self._generate_redis_keys_for_entities(config, entity_keys), packed

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: Any,
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Read what Feast's own path asks for (on-demand views, any type): one round trip."""
        if not is_ours(config):
            super()._read_features_per_fv(
                config, grouped_refs, join_key_values, entity_name_to_join_key_map,
                online_features_response, full_feature_names,
                include_feature_view_version_metadata,
            )  # fmt: skip
            return
        work, keys, commands = self._work(
            config, grouped_refs, join_key_values, entity_name_to_join_key_map
        )
        client = self._client_of(config)
        found = checked(client, client.call(keys, commands, read_only=True))
        populate(
            config, work, found, online_features_response, full_feature_names,
            include_feature_view_version_metadata,
        )  # fmt: skip

    async def _read_features_per_fv_async(
        self,
        config: RepoConfig,
        grouped_refs: Any,
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Read what Feast's own path asks for, on an event loop."""
        if not is_ours(config):
            await super()._read_features_per_fv_async(
                config, grouped_refs, join_key_values, entity_name_to_join_key_map,
                online_features_response, full_feature_names,
                include_feature_view_version_metadata,
            )  # fmt: skip
            return
        work, keys, commands = self._work(
            config, grouped_refs, join_key_values, entity_name_to_join_key_map
        )
        client = self._async_client_of(config)
        found = checked(client, await client.call(keys, commands, read_only=True))
        populate(
            config, work, found, online_features_response, full_feature_names,
            include_feature_view_version_metadata,
        )  # fmt: skip

    def _work(
        self, config: RepoConfig, grouped_refs: Any, join_key_values: Any, entity_map: Any
    ) -> tuple[list[Any], list[bytes], list[bytes]]:
        work: list[Any] = []
        keys: list[bytes] = []
        commands: list[bytes] = []
        for table, names in grouped_refs:
            entities, places, count = utils._get_unique_entities(table, join_key_values, entity_map)
            entity_keys = utils._get_entity_key_protos(entities)
            wanted, fields = self._wanted(config, table, entity_keys, names)
            work.append((table, list(names), places, count, len(keys), len(keys) + len(wanted)))
            keys += wanted
            commands += hmgets(wanted, fields)
        return work, keys, commands

    # Writing

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows, newer wins, atomically for each."""
        check_is_written(table)
        if config.online_store.skip_dedup or not is_ours(config):
            super().online_write_batch(config, table, data, progress)
            return
        client = self._client_of(config)
        for packer, keys, rows, fields, times_us in packed_rows(config, table, data):
            ColumnWriter(client, packer).write_packed(keys, rows, fields, times_us)
            if progress:
                progress(len(keys))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows on an event loop."""
        check_is_written(table)
        if config.online_store.skip_dedup or not is_ours(config):
            await super().online_write_batch_async(config, table, data, progress)
            return
        client = self._async_client_of(config)
        for packer, keys, rows, fields, times_us in packed_rows(config, table, data):
            await AsyncColumnWriter(client, packer).write_packed(keys, rows, fields, times_us)
            if progress:
                progress(len(keys))

    # Connections

    def _client_of(self, config: RepoConfig) -> RedisClient:
        if self._bulk is None:
            self._bulk = RedisClient(
                url_of_store(config), timeout_s=config.online_store.timeout_seconds
            )
        return self._bulk

    def _async_client_of(self, config: RepoConfig) -> AsyncRedisClient:
        if self._bulk_async is None:
            timeout_s = config.online_store.timeout_seconds
            self._bulk_async = AsyncRedisClient(url_of_store(config), timeout_s=timeout_s)
        return self._bulk_async

    async def close(self) -> None:
        """Let go of the connections."""
        if self._bulk_async is not None:
            await self._bulk_async.aclose()
        if self._bulk is not None:
            await asyncio.to_thread(self._bulk.close)
        await super().close()

    def teardown(self, config: RepoConfig, tables: Any, entities: Any) -> None:
        """Delete what the views stored."""
        super().teardown(config, tables, entities)
        if self._bulk is not None:
            self._bulk.close()


def _answer(config: RepoConfig, pending: Pending, found: Any) -> ColumnarResponse | None:
    keep = config.online_store.keep_expired_values
    try:
        columns = decode(pending, found, time.time_ns() // 1000, keep_expired=keep)
    except FeatureError:
        return None  # a value of another type than declared: Feast gives what is there
    return ColumnarResponse(columns, keep_expired=keep)
