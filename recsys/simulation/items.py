"""The catalogue: what is offered when, and how popular it is.

Axes: ``I`` items in order of birth (the index), ``D`` latent dims. This table is held in memory,
as the item side of a real system is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from recsys.clock import DAY_MS
from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import Floats, Ints, Stream, table_generator

NEVER_MS = 2**62
"""Withdrawal time of an item that stays."""


class Items:
    """Vectors, categories, prices, dates and popularity of all items ever offered."""

    def __init__(self, config: WorldConfig) -> None:
        self._config = config
        rng = table_generator(config.seed, Stream.TABLE)
        size, dims = config.num_items, config.latent_dims
        self.centroids: Floats = _unit(rng.standard_normal((config.num_categories, dims)))
        """[categories, D] length 1."""
        shares = rng.dirichlet(np.full(config.num_categories, 4.0))
        self.category: Ints = rng.choice(config.num_categories, size, p=shares).astype(np.int64)
        own: Floats = rng.standard_normal((size, dims)) * (config.item_spread / np.sqrt(dims))
        self.vector: npt.NDArray[np.float32] = _unit(self.centroids[self.category] + own).astype(
            np.float32
        )
        """[I, D] length 1."""
        self.log_price: Floats = rng.standard_normal(size)
        """[I] log price in standard deviations within the category."""
        level = np.exp(rng.normal(3.0, 0.8, config.num_categories))[self.category]
        self.price: Floats = np.round(np.maximum(level * np.exp(0.5 * self.log_price), 0.5), 2)
        """[I] money of no particular currency, at least 0.5."""
        rank = rng.permutation(size) + 1.0
        self.weight: Floats = np.power(rank, -config.popularity_skew, dtype=np.float64)
        """[I] base popularity, Zipf."""
        self.quality: Floats = np.clip(np.log(size / rank) - 1.0, -1.0, 4.0)
        """[I] log popularity less its mean, standard deviation about 1."""
        self.born_ms, self.withdrawn_ms = self._dates(rng)
        """[I] first and last instant on offer; ``born_ms`` never falls."""
        self.announced_ms: Ints = self._announced()
        """[I] time of the item's first event: birth, or within the prelude when born before."""
        self._by_withdrawal = np.argsort(self.withdrawn_ms, kind="stable")
        self._withdrawals = self.withdrawn_ms[self._by_withdrawal]
        width = max(6, len(str(size - 1)))
        self.ids: npt.NDArray[np.object_] = np.array(
            [f"i{index:0{width}d}" for index in range(size)], dtype=object
        )
        """[I] outside identities."""
        self.by_category: npt.NDArray[np.intp] = np.argsort(self.category, kind="stable")
        edges = np.arange(config.num_categories + 1)
        self.segment: npt.NDArray[np.intp] = np.searchsorted(self.category[self.by_category], edges)
        """[categories + 1] bounds of each category in ``by_category``."""
        lasting = (self.born_ms < config.start_ms) & (self.withdrawn_ms == NEVER_MS)
        self._lasting_weight = _cumulative((np.sqrt(self.weight) * lasting)[self.by_category])

    def available(self, index: Ints, time_ms: Ints) -> npt.NDArray[np.bool_]:
        """Tell which items are on offer at ``time_ms``; shapes broadcast."""
        return np.asarray((self.born_ms[index] <= time_ms) & (time_ms < self.withdrawn_ms[index]))

    def num_born(self, time_ms: Ints) -> Ints:
        """Give how many items were born by ``time_ms``: these are the indices below it."""
        return np.searchsorted(self.born_ms, time_ms, side="right").astype(np.int64)

    def novelty(self, index: Ints, time_ms: Ints) -> Floats:
        """Give 1 at birth, half of it each ``fresh_days``; 0 before birth."""
        age_days = (time_ms - self.born_ms[index]) / DAY_MS
        half_lives = np.maximum(age_days, 0.0) / self._config.fresh_days
        return np.asarray(np.where(age_days >= 0, np.exp2(-half_lives), 0.0))

    def popularity(self, time_ms: int) -> Floats:
        """Give the weight of every item on offer at any time of that day: Zipf times life cycle."""
        config = self._config
        day_start = time_ms - (time_ms - config.start_ms) % DAY_MS
        age_days = np.maximum(day_start - self.born_ms, 0) / DAY_MS
        ageing = np.exp2(-age_days / config.life_half_life_days)
        life = config.life_floor + (1.0 - config.life_floor) * ageing
        alive = (self.born_ms < day_start + DAY_MS) & (self.withdrawn_ms > day_start)
        return np.asarray(self.weight * life * alive)

    def staple(self, topics: Ints, luck: Floats) -> Ints:
        """Pick lasting items of ``topics``, popular ones more often; -1 where there is none."""
        return pick_in_segments(self, self._lasting_weight, topics, luck)

    def announced_between(self, start_ms: int, end_ms: int) -> Ints:
        """Give the items whose first event lies in [start_ms, end_ms)."""
        low, high = np.searchsorted(self.announced_ms, [start_ms, end_ms])
        return np.arange(low, high, dtype=np.int64)

    def withdrawn_between(self, start_ms: int, end_ms: int) -> Ints:
        """Give the items withdrawn in [start_ms, end_ms)."""
        low, high = np.searchsorted(self._withdrawals, [start_ms, end_ms])
        return np.asarray(self._by_withdrawal[low:high], dtype=np.int64)

    def _dates(self, rng: np.random.Generator) -> tuple[Ints, Ints]:
        config = self._config
        size = config.num_items
        existing = min(size, max(1, round(size * config.existing_item_share)))
        age_days = np.minimum(rng.exponential(180.0, existing), 730.0) + 0.01
        born_before = config.start_ms - age_days * DAY_MS
        born_after = rng.uniform(config.start_ms, config.end_ms, size - existing)
        born = np.sort(np.concatenate([born_before, born_after]).astype(np.int64))
        leaves = rng.random(size) < config.withdrawn_share
        first_day_over = np.maximum(born, config.start_ms) + DAY_MS
        at = first_day_over + rng.random(size) * config.days * DAY_MS
        withdrawn = np.where(leaves & (at < config.end_ms), at, NEVER_MS).astype(np.int64)
        return born, withdrawn

    def _announced(self) -> Ints:
        config = self._config
        existing = int(np.searchsorted(self.born_ms, config.start_ms))
        half = config.prelude_ms / 2
        early = config.start_ms - config.prelude_ms + half * np.arange(existing) / max(1, existing)
        return np.concatenate([early.astype(np.int64), self.born_ms[existing:]])


class PopularityTables:
    """Sums of popularity by day, from which candidates are drawn; the last few days are kept."""

    def __init__(self, items: Items, config: WorldConfig) -> None:
        self._items = items
        self._start_ms = config.start_ms
        self._of_day = lru_cache(maxsize=4)(self._build)

    def day(self, time_ms: Ints) -> Ints:
        """Give the number of the day each time falls in."""
        return np.asarray((time_ms - self._start_ms) // DAY_MS)

    def of_day(self, day: int) -> tuple[Floats, Floats]:
        """Give running sums, in ``by_category`` order with a leading 0, of weight and its root."""
        return self._of_day(day)

    def _build(self, day: int) -> tuple[Floats, Floats]:
        weight = self._items.popularity(self._start_ms + day * DAY_MS)[self._items.by_category]
        return _cumulative(weight), _cumulative(np.sqrt(weight))


def pick_in_segments(items: Items, running: Floats, topics: Ints, luck: Floats) -> Ints:
    """Pick an item of each topic with chance proportional to its step in ``running``, or -1."""
    low, high = running[items.segment[topics]], running[items.segment[topics + 1]]
    return np.where(high > low, pick(items, running, low + luck * (high - low)), -1)


def pick(items: Items, running: Floats, at: Floats) -> Ints:
    """Give the item whose step of ``running`` contains ``at``."""
    # Looking up in ascending order keeps the table in the cache: almost three times as fast.
    flat = at.ravel()
    order = np.argsort(flat)
    place = np.empty(flat.shape, dtype=np.intp)
    place[order] = np.searchsorted(running, flat[order], side="right") - 1
    np.clip(place, 0, len(items.by_category) - 1, out=place)
    return items.by_category[place].astype(np.int64).reshape(at.shape)


def _cumulative(weight: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(weight)])


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
