"""Cycles that idling leaves are collected, though passes of their own are rare."""

from __future__ import annotations

import gc
import weakref

from recsys.features.collector import IdleCollections


class _Ring:
    def __init__(self) -> None:
        self.own = self


def test_what_idling_leaves_is_collected_and_a_busy_worker_is_not_held_up() -> None:
    now_s = [100.0]
    idle = IdleCollections(every_s=10.0, monotonic_s=lambda: now_s[0])
    threshold = gc.get_threshold()
    gc.set_threshold(1_000_000, 20, 50)
    try:
        left = weakref.ref(_Ring())
        idle.after(0)
        assert left() is not None, "too soon"
        now_s[0] += 10.0
        idle.after(500)
        assert left() is not None, "busy"
        idle.after(0)
        assert left() is None
    finally:
        gc.set_threshold(*threshold)
