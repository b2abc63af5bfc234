"""Tracer events, which ``recsys features probe`` sends and nobody learns from.

Their users and items begin with ``PREFIX``, which is reserved. They are applied to features like
any other event, each to entities of its own, so no feature of a real user or item changes.
Training, and with it vocabularies, candidates and popularity, leaves them out; so do checks and
profiles.
"""

from __future__ import annotations

import polars as pl

PREFIX = "recsys-probe/"


def is_tracer(identity: str) -> bool:
    """Whether an id of a user or an item is reserved for tracers."""
    return identity.startswith(PREFIX)


def without_tracers(rows: pl.DataFrame) -> pl.DataFrame:
    """Leave out the rows of the event log that are of a reserved user or item."""
    user, item = (
        pl.col(name).str.starts_with(PREFIX).fill_null(False) for name in ("user_id", "item_id")
    )
    return rows.filter(~(user | item))
