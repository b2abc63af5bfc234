"""Users as pure functions of (seed, user, time): nobody is stored, so there may be any number.

Axes: ``n`` users (or sessions), ``M`` topics of a user, ``K`` waves, ``D`` latent dims, ``S``
staples.

Drift. The weight of a topic is a stationary process with the covariance of Ornstein and Uhlenbeck,
written as a sum of K waves whose frequencies are drawn from that covariance's spectrum (a Cauchy
distribution). Over users the covariance is exactly ``exp(-|lag| / tau)``, and any instant can be
evaluated without the ones before it.

Source: Rahimi and Recht, "Random features for large-scale kernel machines", NeurIPS 2007, eq. 4,
with frequencies stratified to make single paths closer to their expectation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from recsys.clock import DAY_MS, HOUR_MS
from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import (
    Floats,
    Ints,
    Stream,
    fold,
    gumbel,
    normal,
    root,
    table_generator,
    uniform,
)

COUNTRIES: tuple[tuple[str, float, int], ...] = (
    ("GB", 0.34, 0), ("DE", 0.18, 1), ("FR", 0.14, 1), ("US", 0.20, -5), ("BR", 0.08, -3),
    ("JP", 0.06, 9),
)  # fmt: skip
"""Country, share of users, hours ahead of UTC (no summer time)."""
AGE_GROUPS = ("18-24", "25-34", "35-49", "50-64", "65+")
_AGE_SHARES = (0.18, 0.28, 0.27, 0.18, 0.09)
DEVICES = ("mobile", "desktop", "tablet")
_DEVICE_BY_AGE = np.array(
    [[0.85, 0.12, 0.03], [0.75, 0.21, 0.04], [0.6, 0.33, 0.07], [0.45, 0.42, 0.13],
     [0.35, 0.43, 0.22]]
)  # fmt: skip
_PRICE_BY_AGE = np.array([1.5, 1.2, 0.9, 0.8, 0.9])

_HOUR_PROFILE = np.array([
    0.35, 0.2, 0.12, 0.1, 0.1, 0.18, 0.4, 0.7, 0.9, 1.0, 1.1, 1.2,
    1.35, 1.25, 1.1, 1.1, 1.2, 1.35, 1.55, 1.85, 2.1, 1.95, 1.4, 0.8,
])  # fmt: skip
HOUR_PROFILE = _HOUR_PROFILE / _HOUR_PROFILE.mean()
"""Relative rate of sessions at each full hour of local time; linear in between, mean 1."""
_DAY_PROFILE = np.array([0.95, 0.92, 0.93, 0.95, 0.98, 1.12, 1.15])
DAY_PROFILE = _DAY_PROFILE / _DAY_PROFILE.mean()
"""Relative rate of sessions on each local weekday, Monday first; mean 1."""
MAX_RATE = float(HOUR_PROFILE.max() * DAY_PROFILE.max())
StaplePicker = Callable[[Ints, Floats], Ints]
"""Picks an item for each topic from a number in 0..1; -1 where the topic has none."""
_WAVES = 6
_, _COUNTRY, _AGE, _DEVICE, _TOPIC, _OFFSET, _PRICE = range(7)


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """What is constant about a batch of users."""

    index: Ints
    """[n] user index."""
    country: Ints
    age: Ints
    device: Ints
    """[n] positions in ``COUNTRIES``, ``AGE_GROUPS`` and ``DEVICES``."""
    price_sensitivity: Floats
    """[n] around 1, always positive."""
    topics: Ints
    """[n, M] categories, the strongest on average first."""
    amplitude: Floats
    frequency: Floats
    phase: Floats
    """[n, M, K] waves of each topic's weight; frequency in radians a day."""
    offset: Floats
    """[n, D] the user's own direction."""
    staples: Ints
    """[n, S] item indices, -1 for none."""
    staple_frequency: Floats
    staple_phase: Floats
    """[n, S] cycle of the need, radians a day and radians."""

    def rows(self, rows: npt.NDArray[np.intp]) -> Profiles:
        """Give the profiles of some rows."""
        return Profiles(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


class Users:
    """Answers every question about users from their index."""

    def __init__(self, config: WorldConfig, centroids: Floats) -> None:
        self._config = config
        self._centroids = centroids
        self._user = root(config.seed, Stream.USER)
        self._drift = root(config.seed, Stream.DRIFT)
        self._staple = root(config.seed, Stream.STAPLE)
        self._activity = root(config.seed, Stream.ACTIVITY)
        self._sign_up = root(config.seed, Stream.SIGN_UP)
        rng = table_generator(config.seed, Stream.USER)
        scale = config.demographic_strength / math.sqrt(2.0)
        shape = config.num_categories
        self._age_appeal = scale * rng.standard_normal((len(AGE_GROUPS), shape))
        self._country_appeal = scale * rng.standard_normal((len(COUNTRIES), shape))
        self._country_edges = np.cumsum([share for _, share, _ in COUNTRIES])[:-1]
        self._age_edges = np.cumsum(_AGE_SHARES)[:-1]
        self._device_edges = np.cumsum(_DEVICE_BY_AGE, axis=1)[:, :-1]
        self._utc_offset_ms = np.array([hours for _, _, hours in COUNTRIES]) * HOUR_MS
        self.num_topics = min(config.topics_per_user, config.num_categories)
        self._num_existing = round(config.num_users * config.existing_user_share)
        self._mean_activity = _mean_of_cut_log_normal(config.activity_sigma, config.activity_cap)
        self.max_activity = config.activity_cap / self._mean_activity

    # --- who they are ---------------------------------------------------------------------------
    def demographics(self, index: Ints) -> tuple[Ints, Ints, Ints]:
        """Give country, age group and device of users, each [n]."""
        state = fold(self._user, index)
        country = np.searchsorted(self._country_edges, uniform(fold(state, _COUNTRY)), "right")
        age = np.searchsorted(self._age_edges, uniform(fold(state, _AGE)), side="right")
        luck = uniform(fold(state, _DEVICE))
        device = (luck[:, None] >= self._device_edges[age]).sum(axis=1)
        return country.astype(np.int64), age.astype(np.int64), device.astype(np.int64)

    def attributes(self, index: Ints) -> list[dict[str, str]]:
        """Give what a user event says about each user."""
        country, age, device = (column.tolist() for column in self.demographics(index))
        return [
            {"country": COUNTRIES[c][0], "age_group": AGE_GROUPS[a], "device": DEVICES[d]}
            for c, a, d in zip(country, age, device, strict=True)
        ]

    def profiles(self, index: Ints, staple_items: StaplePicker) -> Profiles:
        """Give all that is constant about users; ``staple_items`` picks items of given topics."""
        config = self._config
        country, age, device = self.demographics(index)
        state = fold(self._user, index)
        appeal = self._age_appeal[age] + self._country_appeal[country]
        appeal += gumbel(fold(fold(state, _TOPIC)[:, None], np.arange(config.num_categories)))
        topics = np.argsort(-appeal, axis=1, kind="stable")[:, : self.num_topics]
        price = normal(fold(state, _PRICE), 2)[:, 0]
        waves = fold(fold(self._drift, index)[:, None], np.arange(self.num_topics * _WAVES))
        waves = waves.reshape(len(index), self.num_topics, _WAVES)
        tau_days = config.drift_half_life_days / math.log(2.0)
        stratum = (np.arange(_WAVES) + uniform(fold(waves, 0))) / _WAVES
        amplitude = np.sqrt(-2.0 * np.log(uniform(fold(waves, 1))) / _WAVES)
        staple = fold(fold(self._staple, index)[:, None], np.arange(config.staples_per_user))
        low, high = config.staple_period_days
        period_days = low * (high / low) ** uniform(fold(staple, 1))
        home = topics[:, np.arange(config.staples_per_user) % self.num_topics]
        return Profiles(
            index=index,
            country=country,
            age=age,
            device=device,
            price_sensitivity=_PRICE_BY_AGE[age] * np.exp(0.35 * price),
            topics=topics,
            amplitude=config.drift_strength * amplitude,
            # The outermost stratum has no upper bound; beyond one turn an hour a wave is noise.
            frequency=np.minimum(np.tan(0.5 * np.pi * stratum) / tau_days, 2 * np.pi * 24),
            phase=2.0 * np.pi * uniform(fold(waves, 2)),
            offset=normal(fold(state, _OFFSET), config.latent_dims)
            * (config.personal_taste / math.sqrt(config.latent_dims)),
            staples=staple_items(home, uniform(fold(staple, 0))),
            staple_frequency=2.0 * np.pi / period_days,
            staple_phase=2.0 * np.pi * uniform(fold(staple, 2)),
        )

    # --- what they want, when -------------------------------------------------------------------
    def topic_weights(self, profiles: Profiles, time_ms: Ints) -> Floats:
        """Give the share of each topic in the taste at ``time_ms`` [n]; rows of [n, M] sum to 1."""
        days = (time_ms - self._config.start_ms) / DAY_MS
        angle = profiles.frequency * days[:, None, None]
        angle += profiles.phase
        weight = (profiles.amplitude * np.cos(angle)).sum(axis=2)
        weight -= self._config.topic_decay * np.arange(self.num_topics)
        weight = np.exp(weight - weight.max(axis=1, keepdims=True))
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))

    def tastes(self, profiles: Profiles, time_ms: Ints) -> Floats:
        """Give taste vectors of length 1 at ``time_ms`` [n], as [n, D]."""
        weight = self.topic_weights(profiles, time_ms)
        taste = profiles.offset.copy()
        for m in range(self.num_topics):
            taste += weight[:, m, None] * self._centroids[profiles.topics[:, m]]
        taste /= np.sqrt((taste * taste).sum(axis=1, keepdims=True))
        return taste

    def staple_need(self, profiles: Profiles, time_ms: Ints) -> Floats:
        """Give how far each staple's cycle is towards its height, [n, S] in 0..1."""
        days = (time_ms - self._config.start_ms) / DAY_MS
        angle = profiles.staple_frequency * days[:, None] + profiles.staple_phase
        return np.asarray(np.maximum(np.cos(angle), 0.0))

    # --- when they come -------------------------------------------------------------------------
    def activity(self, index: Ints) -> Floats:
        """Give sessions relative to the mean user, [n]; log-normal, cut, mean 1."""
        z = normal(fold(self._activity, index), 2)[:, 0]
        level = np.minimum(np.exp(self._config.activity_sigma * z), self._config.activity_cap)
        return np.asarray(level / self._mean_activity)

    def rhythm(self, country: Ints, time_ms: Ints) -> Floats:
        """Give the rate of sessions at local time of day and week relative to the mean, [n]."""
        local = time_ms + self._utc_offset_ms[country]
        weekday = (local // DAY_MS + 3) % 7  # 1970-01-01 was a Thursday
        hour = (local % DAY_MS) / HOUR_MS
        whole = hour.astype(np.int64)
        part = hour - whole
        level = (1 - part) * HOUR_PROFILE[whole] + part * HOUR_PROFILE[(whole + 1) % 24]
        return np.asarray(level * DAY_PROFILE[weekday])

    def sign_up_ms(self, index: Ints) -> Ints:
        """Give when users signed up, [n]; it never falls with the index."""
        config = self._config
        share = (index + uniform(fold(self._sign_up, index))) - self._num_existing
        new = max(1, config.num_users - self._num_existing)
        after = config.start_ms + (share * (config.end_ms - config.start_ms) / new)
        half = config.prelude_ms / 2  # items are announced in the first half
        before = config.start_ms - half + half * (index + 0.5) / max(1, self._num_existing)
        return np.asarray(np.where(index < self._num_existing, before, after), dtype=np.int64)

    def signed_up_between(self, start_ms: int, end_ms: int) -> Ints:
        """Give the users who signed up in [start_ms, end_ms), in that order."""
        first = self._first_at_or_after(start_ms)
        return np.arange(first, self._first_at_or_after(end_ms), dtype=np.int64)

    def _first_at_or_after(self, time_ms: int) -> int:
        low, high = 0, self._config.num_users
        while low < high:
            middle = (low + high) // 2
            if int(self.sign_up_ms(np.array([middle]))[0]) < time_ms:
                low = middle + 1
            else:
                high = middle
        return low


def _mean_of_cut_log_normal(sigma: float, cap: float) -> float:
    """Give E[min(exp(sigma Z), cap)] for a standard normal Z."""
    if sigma == 0.0:
        return min(1.0, cap)

    def phi(x: float) -> float:
        return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))

    edge = math.log(cap) / sigma
    return math.exp(sigma**2 / 2) * phi(edge - sigma) + cap * (1.0 - phi(edge))
