"""Real-time recommendation and ranking: the nouns and rules every process shares.

Listing this package is reading the journey of an event: `events`, `features`, `data`,
`models`, `evaluation`, `bundle`, `inference`, `retrieval`, `ranking`, `pipeline`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    """Give the clients on first use: servers import this package without an HTTP client."""
    if name in ("AsyncClient", "Client"):
        from recsys import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
