"""Whether a catalogue is searched exactly or by an approximate index."""

from __future__ import annotations

from typing import Literal

Search = Literal["auto", "exact", "approximate"]

APPROXIMATE_FROM_ITEMS = 100_000
"""Catalogues from here on are searched by an index under ``auto``: it takes a third of the time of
an exact search for a user alone and two thirds in a batch. At half as many it would save a
millisecond alone and as good as nothing in a batch (measured, docs/retrieval.md)."""


def is_approximate(search: Search, num_items: int) -> bool:
    """Say whether a bundle of so many items gets an index."""
    if search == "auto":
        return num_items >= APPROXIMATE_FROM_ITEMS
    return search == "approximate"
