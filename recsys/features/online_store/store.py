"""The plug-in: Feast's Redis store with bulk reads, TTLs and atomic newer-wins writes.

A subclass of Feast's own store: the bytes are the same, and what is not overridden (deleting,
sentinels, precomputed vectors, document search) is Feast's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from feast import FeatureService, FeatureView, RepoConfig, utils
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.infra.online_stores.redis import (
    RedisClient as FeastRedisClient,
)
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RedisType,
)
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from recsys.errors import ConfigurationError, FeatureError
from recsys.features.column_writer import (
    AsyncColumnWriter,
    ColumnWriter,
    RowPacker,
)
from recsys.features.current_rows import Places, current
from recsys.features.feast_views import STORED_TAG, compile_made
from recsys.features.layout import decode_timestamp_us, encode_timestamp_us
from recsys.features.online_store.address import url_of
from recsys.features.online_store.request import Pending, Requests, decode
from recsys.features.online_store.response import ColumnarResponse
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import hmgets
from recsys.features.redis_hashes import checked
from recsys.features.value_encoding import frame
from recsys.features.view import View

_TYPE: Literal["recsys.features.online_store.BulkRedisOnlineStore"] = (
    "recsys.features.online_store.BulkRedisOnlineStore"
)
Row = tuple[EntityKey, dict[str, ValueProto], datetime, datetime | None]
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
ReadRow = tuple[datetime | None, dict[str, ValueProto] | None]


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
        if not include_feature_view_version_metadata and _is_ours(config):
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
        if not include_feature_view_version_metadata and _is_ours(config):
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
        if not _is_ours(config):
            rows: list[ReadRow] = super().online_read(config, table, entity_keys, list(names))
            return rows
        keys, fields = self._wanted(config, table, entity_keys, names)
        client = self._client_of(config)
        found = checked(client, client.call(keys, hmgets(keys, fields), read_only=True))
        return [_visible(row, config) for row in _rows(config, table, names, found)]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """Give the rows of a view, on an event loop."""
        names = requested_features or [field.name for field in table.features]
        if not _is_ours(config):
            rows: list[ReadRow] = await super().online_read_async(
                config, table, entity_keys, list(names)
            )
            return rows
        keys, fields = self._wanted(config, table, entity_keys, names)
        client = self._async_client_of(config)
        found = checked(client, await client.call(keys, hmgets(keys, fields), read_only=True))
        return [_visible(row, config) for row in _rows(config, table, names, found)]

    def _wanted(
        self, config: RepoConfig, table: FeatureView, entity_keys: Any, names: Sequence[str]
    ) -> tuple[list[bytes], tuple[bytes, ...]]:
        stored = _stored_name(config, table)
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
        if not _is_ours(config):
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
        _populate(
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
        if not _is_ours(config):
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
        _populate(
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
        _check_is_written(table)
        if config.online_store.skip_dedup or not _is_ours(config):
            super().online_write_batch(config, table, data, progress)
            return
        client = self._client_of(config)
        for packer, keys, rows, fields in _packed(config, table, data):
            ColumnWriter(client, packer).write_packed(keys, rows, fields)
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
        _check_is_written(table)
        if config.online_store.skip_dedup or not _is_ours(config):
            await super().online_write_batch_async(config, table, data, progress)
            return
        client = self._async_client_of(config)
        for packer, keys, rows, fields in _packed(config, table, data):
            await AsyncColumnWriter(client, packer).write_packed(keys, rows, fields)
            if progress:
                progress(len(keys))

    # Connections

    def _client_of(self, config: RepoConfig) -> RedisClient:
        if self._bulk is None:
            self._bulk = RedisClient(_url(config), timeout_s=config.online_store.timeout_seconds)
        return self._bulk

    def _async_client_of(self, config: RepoConfig) -> AsyncRedisClient:
        if self._bulk_async is None:
            timeout_s = config.online_store.timeout_seconds
            self._bulk_async = AsyncRedisClient(_url(config), timeout_s=timeout_s)
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


def _is_ours(config: RepoConfig) -> bool:
    """Whether we can reach this Redis; through a sentinel or another client only Feast can."""
    store = config.online_store
    if store.redis_type == RedisType.redis_sentinel or store.client != FeastRedisClient.redis:
        return False
    is_cluster = store.redis_type == RedisType.redis_cluster
    return url_of(store.connection_string, is_cluster=is_cluster) is not None


def _check_is_written(table: FeatureView) -> None:
    if STORED_TAG in (table.tags or {}):
        raise ConfigurationError(
            f'view "{table.name}" has the tag {STORED_TAG}="state": the stream worker makes it, '
            "and readers read its state, so rows written here would never be seen; name the other "
            "views (`feast materialize --views ...`), or take the tag away"
        )


def _url(config: RepoConfig) -> str:
    store = config.online_store
    url = url_of(store.connection_string, is_cluster=store.redis_type == RedisType.redis_cluster)
    if url is None:
        raise ConfigurationError("wanted a connection_string without unknown options")
    return url


def _answer(config: RepoConfig, pending: Pending, found: Any) -> ColumnarResponse | None:
    keep = config.online_store.keep_expired_values
    try:
        columns = decode(pending, found, time.time_ns() // 1000, keep_expired=keep)
    except FeatureError:
        return None  # a value of another type than declared: Feast gives what is there
    return ColumnarResponse(columns, keep_expired=keep)


def _stored_name(config: RepoConfig, table: FeatureView) -> str:
    versioned = config.registry.enable_online_feature_view_versioning
    return str(compute_versioned_name(table, versioned))


def _rows(
    config: RepoConfig, table: FeatureView, names: Sequence[str], found: Any
) -> list[tuple[datetime | None, dict[str, ValueProto] | None, bool]]:
    """Give ``(event time, values, expired)`` of each entity; values ``None`` where none are."""
    ttl_us = int(table.ttl.total_seconds() * 1_000_000) if table.ttl else 0
    now_us = time.time_ns() // 1000
    keep = config.online_store.keep_expired_values
    rows: list[tuple[datetime | None, dict[str, ValueProto] | None, bool]] = []
    if (streamed := compile_made(table)) is not None:
        if not streamed.stores_values:
            # Whatever else lies there is of an older declaration.
            found = [[*[None] * (len(row) - 1), row[-1]] for row in found]
        features = {name: place for place, name in enumerate(names)}
        places = Places(streamed, features, len(names), len(names) + 1)
        found = [row[:-1] for row in current(found, [places], now_us // 1000)]
    for *values, stamp in found:
        if stamp is None and not any(value is not None for value in values):
            rows.append((None, None, False))
            continue
        time_us = decode_timestamp_us(stamp or b"")
        is_expired = bool(ttl_us) and stamp is not None and now_us - time_us > ttl_us
        shown = values if keep or not is_expired else [None] * len(values)
        protos = {
            name: ValueProto.FromString(value) if value else ValueProto()
            for name, value in zip(names, shown, strict=True)
        }
        rows.append((_EPOCH + time_us * _MICROSECOND, protos, is_expired))
    return rows


def _visible(
    row: tuple[datetime | None, dict[str, ValueProto] | None, bool], config: RepoConfig
) -> ReadRow:
    moment, values, is_expired = row
    if is_expired and not config.online_store.keep_expired_values:
        return None, None
    return moment, values


def _populate(
    config: RepoConfig,
    work: Sequence[Any],
    found: Any,
    response: Any,
    full_feature_names: bool,
    with_versions: bool,
) -> None:
    for table, names, places, count, first, end in work:
        rows = _rows(config, table, names, found[first:end])
        utils._populate_response_from_feature_data(
            names, [row[:2] for row in rows], places, response, full_feature_names, table, count,
            with_versions,
        )  # fmt: skip
        expired = [place for row, at in zip(rows, places, strict=True) if row[2] for place in at]
        for vector in response.results[len(response.results) - len(names) :] if expired else ():
            for place in expired:
                vector.statuses[place] = FieldStatus.OUTSIDE_MAX_AGE


def _packed(
    config: RepoConfig, table: FeatureView, data: Sequence[Row]
) -> list[tuple[RowPacker, list[bytes], list[bytes], list[bytes]]]:
    """Give keys and framed rows for each set of features that rows have (there is mostly one)."""
    store = config.online_store
    stored = _stored_name(config, table)
    packer = RowPacker(
        View(name=stored, join_keys=(), features=(), ttl_ms=0),
        config.project,
        key_ttl_s=store.key_ttl_seconds or 0,
        ties=store.equal_time,
    )
    groups: dict[tuple[str, ...], tuple[list[bytes], list[bytes]]] = {}
    for entity_key, values, moment, _ in data:
        keys, rows = groups.setdefault(tuple(values), ([], []))
        keys.append(
            _redis_key(
                config.project, entity_key,
                entity_key_serialization_version=config.entity_key_serialization_version,
            )
        )  # fmt: skip
        aware = utils.make_tzaware(moment)
        time_us = (aware - _EPOCH) // _MICROSECOND
        encoded = [
            encode_timestamp_us(time_us),
            *(value.SerializeToString() for value in values.values()),
        ]
        rows.append(b"".join(frame(encoded)))
    return [
        (packer, keys, rows, [_mmh3(f"{stored}:{name}") for name in names])
        for names, (keys, rows) in groups.items()
    ]
