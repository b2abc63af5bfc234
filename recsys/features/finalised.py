"""Stored states of any view of aggregates, read at a moment: what ``view_history.py`` gives then.

``Q`` entities, ``F`` scalar aggregates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import InputError
from recsys.features.aggregate_state import state_of_blobs
from recsys.features.aggregates import finalise, finalise_lists
from recsys.features.batch import Bools, Float32s, Int64s, Ragged
from recsys.features.few_windows import FewWindows
from recsys.features.framing import NEVER_MS, payloads_of, unframe
from recsys.features.key_layout import EntityKeys
from recsys.features.view import View

Keys = Mapping[str, Sequence[str]]
"""Join key to its value of each entity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewValues:
    """One view of many entities at one moment."""

    known: Bools
    """``[Q]``: whether it ever had an event of the view's kinds of entity."""
    names: tuple[str, ...]
    """``[F]``"""
    values: Float32s
    """``[Q, F]``; zeros of an entity that is unknown, or whose newest event is past the TTL."""
    lists: dict[str, Ragged]
    """Lists by name, least recent first; empty where ``values`` are zeros."""


def wanted_states(view: View, project: str, keys: Keys) -> list[tuple[bytes, Sequence[bytes]]]:
    """Give the hashes and fields that hold the states of ``view``.

    Raises:
        InputError: when a join key is absent, or they are not of one length.
    """
    sizes = {name: len(keys[name]) if name in keys else None for name in view.join_keys}
    if None in sizes.values() or len(set(sizes.values())) != 1:
        raise InputError(
            f'view "{view.name}": wanted as many values of each of {", ".join(view.join_keys)}; '
            f"found {sizes}"
        )
    ids = list(zip(*(keys[name] for name in view.join_keys), strict=True))
    return [(key, (view.state_field,)) for key in EntityKeys(view, project).of_all(ids)]


def view_now(view: View, states: Sequence[bytes | None], now_ms: int) -> ViewValues:
    """Finalise the states of many entities at one moment."""
    now = np.full(len(states), now_ms, dtype=np.int64)
    state = state_of_blobs(view, payloads_now(view, states, now))
    return ViewValues(
        known=np.array([one is not None for one in states], dtype=np.bool_),
        names=tuple(a.name for a in view.scalar_aggregates),
        values=finalise(view, state, now),
        lists=finalise_lists(view, state, now),
    )


def values_now(view: View, states: Sequence[bytes | None], now: Int64s) -> Float32s:
    """Finalise the scalars of many entities at ``now``, ``[Q, F]``."""
    return finalise(view, state_of_blobs(view, payloads_now(view, states, now)), now)


def values_at(view: View, states: Sequence[bytes | None], now_ms: int) -> Float32s:
    """Give ``values_now`` of entities at one moment, faster where they have few tiles."""
    payloads = payloads_at(view, states, now_ms)
    few = FewWindows.of(view)
    values = None if few is None else few.values(payloads, now_ms)
    if values is not None:
        return values
    now = np.full(len(states), now_ms, dtype=np.int64)
    return finalise(view, state_of_blobs(view, payloads), now)


def payloads_at(view: View, states: Sequence[bytes | None], now_ms: int) -> list[bytes]:
    """Give ``payloads_now`` at one moment."""
    return payloads_of(states, since_ms=now_ms - view.ttl_ms if view.expires else NEVER_MS)


def payloads_now(view: View, states: Sequence[bytes | None], now: Int64s) -> list[bytes]:
    """Give what the states hold; nothing where the view's TTL ran out."""
    if not view.expires:
        return payloads_of(states)
    framed = unframe(states)
    expired = now - framed.newest_ms > view.ttl_ms
    return [b"" if gone else p for p, gone in zip(framed.payloads, expired, strict=True)]
