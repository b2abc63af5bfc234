"""Where a store's rows lie, as ``feature_store.yaml`` has it: which Redis, and the names in it."""

from __future__ import annotations

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import (
    RedisClient as FeastRedisClient,
)
from feast.infra.online_stores.redis import (
    RedisType,
)

from recsys.errors import ConfigurationError
from recsys.features.online_store.address import url_of


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
