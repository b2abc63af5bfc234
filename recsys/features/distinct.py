"""How many different things: exact while a set is small, HyperLogLog when it is large.

State of a tile is a function of the set ``S`` of 64-bit identities seen in it: ``S`` itself,
sorted, while it has at most ``EXACT`` of them, else the HyperLogLog registers of ``S``. So neither
order, grouping nor repetition changes a bit. The value of a window is the exact size of the union
where all its tiles hold sets, else the estimate of the union of registers, rounded to a whole
number.

With ``2 ** PRECISION`` = 512 registers the relative standard error is 1.04 / sqrt(512) = 4.6 %, and
a tile takes at most 517 bytes. Hash: splitmix64 of the identity. Estimator: Ertl, "New cardinality
estimation algorithms for HyperLogLog sketches" (2017), algorithm 6, which has no bias at any size.

Axes: ``N`` identities, ``R`` tiles with registers, ``M`` registers, ``Q`` questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.features.aggregation import Aggregate
from recsys.features.batch import Float32s, Int64s
from recsys.features.records import join_records, split_records, starts_of_groups
from recsys.features.view import View

EXACT = 32
PRECISION = 9
NUM_REGISTERS = 1 << PRECISION
_TOP = 64 - PRECISION + 1
"""Greatest value of a register."""
_PLACE = [("series", "u1"), ("tile", "<u4")]
IDENTITY_DTYPE = np.dtype([*_PLACE, ("identity", "<i8")])
REGISTERS_DTYPE = np.dtype([*_PLACE, ("registers", "u1", (NUM_REGISTERS,))])
Registers = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Place:
    """Tiles, ``[N]`` each."""

    owner: Int64s
    series: NDArray[np.uint8]
    tile: Int64s

    def take(self, rows: NDArray[np.generic]) -> Place:
        """Give some of them."""
        return Place(self.owner[rows], self.series[rows], self.tile[rows])


@dataclass(frozen=True, slots=True)
class Sets:
    """Sets of many tiles: identities of the small ones, registers of the large ones."""

    small: Place
    identity: Int64s
    large: Place
    registers: Registers
    """``[R, M]``."""


def of_events(number: int, slide_ms: int, owner: Int64s, time_ms: Int64s, identity: Int64s) -> Sets:
    """Give the events of series ``number`` as sets; merge them next."""
    series = np.full(len(owner), number, dtype=np.uint8)
    none = np.empty(0, dtype=np.int64)
    large = Place(none, none.astype(np.uint8), none)
    return Sets(Place(owner, series, time_ms // slide_ms), identity, large, no_registers(0))


def of_blobs(view: View, small: Sequence[bytes], large: Sequence[bytes]) -> Sets:
    """Decode stored sets. Raises FeatureError when they are damaged."""
    what = f'sets of view "{view.name}"'
    owner, ids = join_records(small, IDENTITY_DTYPE, what)
    large_owner, dense = join_records(large, REGISTERS_DTYPE, what)
    return Sets(
        Place(owner, ids["series"], ids["tile"].astype(np.int64)),
        ids["identity"].astype(np.int64),
        Place(large_owner, dense["series"], dense["tile"].astype(np.int64)),
        dense["registers"],
    )


def blobs_of(sets: Sets, num_owners: int) -> tuple[list[bytes], list[bytes]]:
    """Encode sets, the small and the large ones, one blob of each for each owner."""
    ids = np.empty(len(sets.identity), dtype=IDENTITY_DTYPE)
    ids["series"], ids["tile"], ids["identity"] = sets.small.series, sets.small.tile, sets.identity
    dense = np.empty(len(sets.registers), dtype=REGISTERS_DTYPE)
    dense["series"], dense["tile"] = sets.large.series, sets.large.tile
    dense["registers"] = sets.registers
    return (
        split_records(ids, sets.small.owner, num_owners),
        split_records(dense, sets.large.owner, num_owners),
    )


def merge(many: Sequence[Sets]) -> Sets:
    """Give the unions of the sets of each tile."""
    small, identity = _distinct(many)
    large = _concatenate([s.large for s in many])
    both = _concatenate([small, large])
    if not len(both.owner):
        return Sets(small, identity, large, no_registers(0))
    order = np.lexsort((both.tile, both.series, both.owner))
    ordered = both.take(order)
    starts = starts_of_groups(ordered.owner, ordered.series, ordered.tile)
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    of_small, of_large = group[: len(identity)], group[len(identity) :]
    is_large = np.bincount(of_small, minlength=len(starts)) > EXACT
    is_large[of_large] = True
    row = np.cumsum(is_large) - 1
    registers = no_registers(int(is_large.sum()))
    np.maximum.at(registers, row[of_large], np.concatenate([s.registers for s in many]))
    moved = is_large[of_small]
    add_identities(registers, row[of_small[moved]], identity[moved])
    return Sets(
        small.take(~moved), identity[~moved], ordered.take(starts[is_large]), registers
    )  # fmt: skip


def trim(view: View, sets: Sets, newest_ms: Int64s) -> Sets:
    """Drop tiles no window can reach from ``newest_ms`` (``[owners]``) on."""
    slide = np.array([s.slide_ms for s in view.sketches], dtype=np.int64)
    span = np.array([s.num_tiles for s in view.sketches], dtype=np.int64)

    def reached(place: Place) -> NDArray[np.bool_]:
        oldest = newest_ms[place.owner] // slide[place.series] - span[place.series]
        return place.tile > oldest

    small, large = reached(sets.small), reached(sets.large)
    return Sets(
        sets.small.take(small), sets.identity[small], sets.large.take(large), sets.registers[large]
    )


def sizes(view: View, sets: Sets, aggregate: Aggregate, at_ms: Int64s) -> Float32s:
    """Give how many different identities entities ``0 … Q - 1`` have at ``at_ms``, ``[Q]``."""
    slide = aggregate.slide_ms
    number = [(s.column, s.slide_ms) for s in view.sketches].index((aggregate.column, slide))

    def rows_of(place: Place) -> Int64s:
        age = at_ms[place.owner] // slide - place.tile
        return np.flatnonzero(
            (place.series == number) & (age >= 0) & (age < aggregate.num_tiles)
        )  # fmt: skip

    small, large = rows_of(sets.small), rows_of(sets.large)
    owner, identity = sets.small.owner[small], sets.identity[small]
    order = np.lexsort((identity, owner))
    owner, identity = owner[order], identity[order]
    found = np.zeros(len(at_ms), dtype=np.float32)
    if len(owner):
        different = starts_of_groups(owner, identity)
        found[:] = np.bincount(owner[different], minlength=len(at_ms))
    estimated = np.unique(sets.large.owner[large])
    if len(estimated):
        row = np.full(len(at_ms), -1)
        row[estimated] = np.arange(len(estimated))
        registers = no_registers(len(estimated))
        np.maximum.at(registers, row[sets.large.owner[large]], sets.registers[large])
        also = row[owner] >= 0
        add_identities(registers, row[owner[also]], identity[also])
        found[estimated] = estimate(registers)
    return found


def no_registers(rows: int) -> Registers:
    """Give the registers of empty sets, ``[rows, M]``."""
    return np.zeros((rows, NUM_REGISTERS), dtype=np.uint8)


def add_identities(registers: Registers, row: Int64s, identity: Int64s) -> None:
    """Add identities (``[N]``) to the sets of rows ``row`` (``[N]``)."""
    x = identity.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    bucket = (x >> np.uint64(64 - PRECISION)).astype(np.int64)
    rest = x << np.uint64(PRECISION)
    zeros = np.zeros(len(x), dtype=np.uint8)
    for bits in (32, 16, 8, 4, 2, 1):  # leading zeros, by halves
        empty = rest >> np.uint64(64 - bits) == 0
        zeros[empty] += bits
        rest[empty] <<= np.uint64(bits)
    np.maximum.at(registers, (row, bucket), np.minimum(zeros + 1, _TOP).astype(np.uint8))


def estimate(registers: Registers) -> Float32s:
    """Give the estimated sizes of the sets, ``[R]``, whole numbers."""
    m = float(NUM_REGISTERS)
    counts = np.stack([(registers == k).sum(axis=1) for k in range(_TOP + 1)], axis=1)
    z = m * _TAU[NUM_REGISTERS - counts[:, _TOP]]
    for k in range(_TOP - 1, 0, -1):  # always in this order: floating sums
        z = 0.5 * (z + counts[:, k])
    z = z + m * _SIGMA[counts[:, 0]]
    sizes: Float32s = np.rint(_ALPHA * m * m / z).astype(np.float32)
    return sizes


def _sigma(x: float) -> float:
    if x == 1.0:
        return float("inf")
    y, z = 1.0, x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z = 1.0, 1.0 - x
    while True:
        x = float(np.sqrt(x))
        before = z
        y *= 0.5
        z -= (1.0 - x) ** 2 * y
        if z == before:
            return z / 3.0


_ALPHA = 0.5 / float(np.log(2.0))
_SIGMA = np.array([_sigma(c / NUM_REGISTERS) for c in range(NUM_REGISTERS + 1)])
_TAU = np.array([_tau(c / NUM_REGISTERS) for c in range(NUM_REGISTERS + 1)])


def _concatenate(places: Sequence[Place]) -> Place:
    return Place(
        np.concatenate([p.owner for p in places]),
        np.concatenate([p.series for p in places]),
        np.concatenate([p.tile for p in places]),
    )


def _distinct(many: Sequence[Sets]) -> tuple[Place, Int64s]:
    """Give the different identities of each tile, sorted by (tile, identity)."""
    place = _concatenate([s.small for s in many])
    identity = np.concatenate([s.identity for s in many])
    if not len(identity):
        return place, identity
    order = np.lexsort((identity, place.tile, place.series, place.owner))
    place, identity = place.take(order), identity[order]
    first = starts_of_groups(place.owner, place.series, place.tile, identity)
    return place.take(first), identity[first]
