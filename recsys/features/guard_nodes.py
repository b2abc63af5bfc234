"""Where the guard of a Redis Cluster lies: on each node a copy of the progress.

A script sees one node only, and a node that fails may lose its last writes while the others keep
theirs. So each node holds a copy of the progress: what a script compares, and how far *this node's*
hashes are told, since the copy is raised after them and is lost with them. The progress itself lies
wherever its name falls (*home*) and is raised last, so no copy is behind it but one whose node lost
writes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.redis.commands import NUM_SLOTS, slot_of
from recsys.features.redis.routing import Topology

Fields = Mapping[bytes, bytes]


class Layout(NamedTuple):
    """Which node guards which slots."""

    keys: tuple[bytes, ...]
    """Of the progress and its copies, one on each node; home first."""
    node_of_slot: npt.NDArray[np.int32] | None
    """Places in ``keys``; ``None`` for one server."""
    shape: bytes
    """First and last slot of each run of slots of one node, with the run's place in ``keys``."""

    def node_of(self, key: bytes) -> int:
        """Give the place in ``keys`` of the node that has a key."""
        return 0 if self.node_of_slot is None else int(self.node_of_slot[slot_of(key)])


def layout_of(topology: Topology, home: bytes) -> Layout | None:
    """Give the layout of a cluster; ``None`` while some slots are with no node."""
    node_of_slot = topology.node_of_slot
    if node_of_slot is None or (node_of_slot < 0).any():
        return None
    first_of = dict.fromkeys(node_of_slot.tolist(), 0)
    for slot in range(NUM_SLOTS - 1, -1, -1):
        first_of[int(node_of_slot[slot])] = slot
    at_home = int(node_of_slot[slot_of(home)])
    others = sorted((slot, node) for node, slot in first_of.items() if node != at_home)
    place = np.zeros(max(first_of) + 1, dtype=np.int32)
    for n, (_, node) in enumerate(others):
        place[node] = n + 1
    keys = (home, *(copy_key(home, slot) for slot, _ in others))
    placed = place[node_of_slot]
    cuts = [0, *(np.flatnonzero(np.diff(placed)) + 1).tolist(), NUM_SLOTS]
    runs = [f"{a}-{b - 1}:{placed[a]}" for a, b in pairwise(cuts)]
    return Layout(keys, placed, ",".join(runs).encode())


def copy_key(home: bytes, slot: int) -> bytes:
    """Give the name of the copy of the progress in a slot."""
    return home + b":{%d}" % _tags()[slot]


def copy_keys(home: bytes) -> list[bytes]:
    """Give the names of copies in all slots."""
    return [copy_key(home, slot) for slot in range(NUM_SLOTS)]


@functools.cache
def _tags() -> list[int]:
    """Give for each slot the smallest number that falls into it."""
    tags: dict[int, int] = {}
    number = 0
    while len(tags) < NUM_SLOTS:
        tags.setdefault(slot_of(b"%d" % number), number)
        number += 1
    return [tags[slot] for slot in range(NUM_SLOTS)]


def lowered(home: Fields, copies: Sequence[Fields]) -> dict[bytes, bytes | None]:
    """Give what of the progress must go back (``None``: go) for no copy to be behind it.

    A state that catches up is behind where any copy says so: the others may have ended that while
    this node lost what it was told.
    """
    changes: dict[bytes, bytes | None] = {}
    for copy in copies:
        for name, value in copy.items():
            if b"@" in name:
                now = changes.get(name, home.get(name))
                if now is None or int(value) < int(now):
                    changes[name] = value
        for name in home:
            if b"/" not in name or b"@" in name or name.startswith(b"base:"):
                continue
            held, now = copy.get(name), changes.get(name, home[name])
            if now is not None and (held is None or int(held) < int(now)):
                changes[name] = held
                changes[b"base:" + name] = copy.get(b"base:" + name)
    return changes
