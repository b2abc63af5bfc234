"""What ``feature_store.yaml`` says: the store's options, where Redis is, and the names in it."""

from __future__ import annotations

from typing import Literal

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import (
    RedisClient as FeastRedisClient,
)
from feast.infra.online_stores.redis import (
    RedisOnlineStoreConfig,
    RedisType,
)

from recsys.errors import ConfigurationError
from recsys.features.online_store.address import url_of

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


def is_ours(config: RepoConfig) -> bool:
    """Whether we can reach this Redis; through a sentinel or another client only Feast can."""
    store = config.online_store
    if store.redis_type == RedisType.redis_sentinel or store.client != FeastRedisClient.redis:
        return False
    is_cluster = store.redis_type == RedisType.redis_cluster
    return url_of(store.connection_string, is_cluster=is_cluster) is not None


def url_of_store(config: RepoConfig) -> str:
    """Give the URL of Redis. Raises ConfigurationError for an option we do not know."""
    store = config.online_store
    url = url_of(store.connection_string, is_cluster=store.redis_type == RedisType.redis_cluster)
    if url is None:
        raise ConfigurationError("wanted a connection_string without unknown options")
    return url


def stored_name(config: RepoConfig, table: FeatureView) -> str:
    """Give the name a view has in Redis."""
    versioned = config.registry.enable_online_feature_view_versioning
    return str(compute_versioned_name(table, versioned))
