"""Feast's online store, faster and with its TTLs applied. Imports Feast; serving need not.

In ``feature_store.yaml``::

    online_store:
      type: recsys.features.online_store.BulkRedisOnlineStore
      connection_string: localhost:6379

``docs/online-store.md`` says what differs from ``type: redis``.
"""

from recsys.features.online_store.store import BulkRedisOnlineStore, BulkRedisOnlineStoreConfig

__all__ = ["BulkRedisOnlineStore", "BulkRedisOnlineStoreConfig"]
