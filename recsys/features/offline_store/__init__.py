"""A Feast offline store: point-in-time joins over Parquet, exact, ordered, in bounded memory.

Any Feast repository gets it by two lines of ``feature_store.yaml``::

    offline_store:
      type: recsys.features.offline_store.PointInTimeOfflineStore

``asof`` is the join over arrays, ``keys`` and ``times`` make arrays of columns, ``parts`` reads
Parquet, ``gather`` fetches what was chosen, ``join`` puts these together; none of them knows Feast.
``store`` and what it imports translate from Feast's words. docs/offline-store.md has the semantics.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PointInTimeOfflineStore", "PointInTimeOfflineStoreConfig"]


def __getattr__(name: str) -> Any:
    """Feast looks its classes up here; whoever only wants the join does not pay for Feast."""
    if name in __all__:
        from recsys.features.offline_store import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
