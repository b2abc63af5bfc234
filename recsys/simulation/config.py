"""What a simulated world is made of. Every number of the model is here, with unit and reason."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from recsys.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The model's parameters. Two equal configs are the same world, event for event.

    Logits are natural log-odds. ``docs/simulation.md`` has the equations these enter.
    """

    # --- size and time -------------------------------------------------------------------------
    seed: int = 7
    """Names the world among those with equal parameters; any integer."""
    num_users: int = 2_000
    """Users ever signed up; nothing is stored per user, so memory does not depend on it."""
    num_items: int = 1_500
    """Items ever offered; about 300 bytes each are held (latent vector, price, dates, id)."""
    num_categories: int = 24
    """Topics of taste and of text. 24 have written words, further ones get invented words."""
    latent_dims: int = 16
    """Length of taste and item vectors; a power of two from 4, so that sums have a fixed order."""
    start_ms: int = 1_767_225_600_000
    """First instant with sessions, epoch ms UTC; 2026-01-01, a Thursday."""
    days: int = 30
    """Days with sessions; also the span over which users sign up and items are born."""
    prelude_ms: int = HOUR_MS
    """Time before the start in which existing items and users are announced, ms."""

    # --- users ---------------------------------------------------------------------------------
    existing_user_share: float = 0.6
    """Users signed up before the start; the others sign up evenly through the period."""
    topics_per_user: int = 4
    """Categories a user can care for; which, depends on age group and country."""
    topic_decay: float = 0.7
    """Logit by which each further topic is weaker on average than the one before it."""
    demographic_strength: float = 1.3
    """Standard deviation (logits) of a topic's appeal between age groups and countries."""
    personal_taste: float = 0.6
    """Length of the user's own direction, where the topic centroids have length 1."""
    drift_half_life_days: float = 14.0
    """Days after which the autocorrelation of a topic's weight has fallen to one half."""
    drift_strength: float = 1.2
    """Stationary standard deviation of a topic's weight, logits; 0 stops drift."""
    sessions_per_user_day: float = 1.0
    """Mean sessions per signed-up user and day."""
    activity_sigma: float = 1.0
    """Log-normal spread of activity between users; 1.0: the top 10 % make about 40 %."""
    activity_cap: float = 8.0
    """Activity, in medians, at which the log-normal is cut; bounds the work of thinning."""
    staples_per_user: int = 2
    """Items a user comes back for again and again."""
    staple_period_days: tuple[float, float] = (3.0, 15.0)
    """Range of the cycle with which the need for a staple returns, days (log-uniform)."""

    # --- items ---------------------------------------------------------------------------------
    existing_item_share: float = 0.7
    """Items born before the start; the others are born evenly through the period."""
    withdrawn_share: float = 0.08
    """Items withdrawn at some time after their first day of the period."""
    item_spread: float = 0.8
    """Length of an item's own direction around its category's centroid of length 1."""
    popularity_skew: float = 0.8
    """Zipf exponent of base popularity: weight of the item of rank r is r to the minus this."""
    life_half_life_days: float = 30.0
    """Days in which the part of an item's popularity that ages has halved."""
    life_floor: float = 0.3
    """Share of popularity that does not age."""
    fresh_days: float = 5.0
    """Age up to which an item belongs to the policy's fresh source; also the scale of novelty."""

    # --- logging policy ------------------------------------------------------------------------
    list_length: int = 12
    """Items per shown list."""
    num_candidates: int = 60
    """Draws for the candidate set of a request; duplicates and unavailable items drop out."""
    candidate_mix: tuple[float, float, float, float] = (0.34, 0.40, 0.10, 0.16)
    """Shares of the sources popular, topical, fresh and uniform among the draws."""
    policy_popularity_weight: float = 0.45
    """Weight of standardised log popularity in the policy's score."""
    policy_affinity_weight: float = 2.0
    """Weight of the estimated affinity (cosine) in the policy's score."""
    policy_noise: float = 0.5
    """Standard deviation of the error of the estimated affinity, one draw per user and item."""
    policy_temperature: float = 0.8
    """Divides the score before the softmax; higher explores more."""

    # --- behaviour -----------------------------------------------------------------------------
    position_bias_exponent: float = 0.55
    """Position k (from 0) is looked at with probability (k + 1) to the minus this."""
    click_bias: float = -3.7
    """Logit of a click on an average item by a user indifferent to it, given examination."""
    click_affinity: float = 3.2
    """Logit per unit of affinity (cosine of taste and item vector)."""
    click_popularity: float = 0.3
    """Logit per unit of standardised log popularity: shared quality."""
    click_price: float = 0.3
    """Logit lost per standard deviation of log price in the category, times user sensitivity."""
    click_novelty: float = 0.5
    """Logit gained by an item just born; halves every ``fresh_days``."""
    click_session: float = 1.6
    """Logit per unit of session interest (cosine-like): what was just clicked attracts its like."""
    session_memory: float = 0.7
    """Factor on session interest from one page to the next."""
    click_staple: float = 2.5
    """Logit gained by a staple when its need is at the height of the cycle."""
    click_fatigue: float = 0.9
    """Logit lost each time the item was already shown in this session."""
    long_view_bias: float = -0.6
    """Logit of a long view given a click at affinity 0."""
    add_to_cart_bias: float = -2.2
    """Logit of adding to the cart given a long view at affinity 0."""
    purchase_bias: float = -0.6
    """Logit of a purchase given an item in the cart at affinity 0."""
    like_bias: float = -3.0
    """Logit of an explicit like given a long view at affinity 0."""
    chain_affinity: float = 1.5
    """Logit per unit of affinity in each of the four steps above."""
    not_interested_rate: float = 0.004
    """Chance of ``not_interested`` on an examined, unclicked item of strongly negative affinity."""

    # --- pace within a session -----------------------------------------------------------------
    max_pages: int = 6
    """Most lists one session asks for."""
    max_session_ms: int = 30 * MINUTE_MS
    """Latest request of a session after its start."""
    next_page_probability: float = 0.45
    """Chance of a further page after a page without a click."""
    next_page_click_bonus: float = 0.2
    """Added to that chance after a page with a click."""
    look_ms: int = 800
    """Time to look at one position."""
    max_page_ms: int = 10 * MINUTE_MS
    """Latest click on a page after its request."""
    max_dwell_ms: int = 4 * MINUTE_MS
    """Longest view of one item."""
    page_gap_ms: int = 6 * SECOND_MS
    """Median pause between the end of a page and the next request."""
    max_page_gap_ms: int = 2 * MINUTE_MS
    """Longest such pause."""
    purchase_delay_ms: int = 10 * MINUTE_MS
    """Median time from cart to purchase; log-normal with sigma 1.2."""
    max_purchase_delay_ms: int = 2 * HOUR_MS
    """Longest such time; with the bounds above it limits how far back a stream must start."""

    def __post_init__(self) -> None:
        """Refuse a world that cannot be.

        Raises:
            ConfigurationError: names the field, its value and what it must be.
        """
        positive = ("num_users", "num_items", "num_categories", "days", "prelude_ms",
                    "sessions_per_user_day", "activity_cap", "list_length", "num_candidates",
                    "max_pages", "policy_temperature", "drift_half_life_days",
                    "life_half_life_days", "fresh_days", "topics_per_user")  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                self._refuse(name, "more than 0")
        for name in ("existing_user_share", "existing_item_share", "withdrawn_share", "life_floor",
                     "next_page_probability", "session_memory"):  # fmt: skip
            if not 0.0 <= getattr(self, name) <= 1.0:
                self._refuse(name, "between 0 and 1")
        if self.latent_dims < 4 or self.latent_dims & (self.latent_dims - 1):
            self._refuse("latent_dims", "a power of two, at least 4")
        if self.list_length > self.num_candidates or self.list_length > 1000:
            self._refuse("list_length", "at most num_candidates and 1000")
        if len(self.candidate_mix) != 4 or abs(sum(self.candidate_mix) - 1.0) > 1e-9:
            self._refuse("candidate_mix", "four shares that add up to 1")
        if self.start_ms - self.prelude_ms < 946_684_800_000:
            self._refuse("start_ms", "epoch milliseconds after the year 2000")

    def _refuse(self, name: str, wanted: str) -> None:
        raise ConfigurationError(
            f"simulated world: {name} must be {wanted}, found {getattr(self, name)!r}; "
            f"change WorldConfig({name}=...)"
        )

    @property
    def end_ms(self) -> int:
        """Give the first instant at which no session starts any more."""
        return self.start_ms + self.days * DAY_MS

    @property
    def horizon_ms(self) -> int:
        """Give the bound on the time between a session's start and its last event."""
        page = self.max_page_ms + self.max_dwell_ms + MINUTE_MS
        return self.max_session_ms + page + self.max_purchase_delay_ms

    @property
    def tag(self) -> str:
        """Give eight hex digits that tell this world's events from any other world's."""
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return hashlib.blake2b(repr(values).encode(), digest_size=4).hexdigest()

    @property
    def chunk_ms(self) -> int:
        """Give the grid on which sessions are drawn: about a thousand sessions a chunk.

        It depends on the world alone, never on who asks for which part of the stream.
        """
        sessions_per_ms = self.num_users * self.sessions_per_user_day / DAY_MS
        longest = 1_500 / sessions_per_ms
        for chunk in (DAY_MS, DAY_MS // 2, DAY_MS // 4, 2 * HOUR_MS, HOUR_MS, 20 * MINUTE_MS,
                      5 * MINUTE_MS, MINUTE_MS, 15 * SECOND_MS, 5 * SECOND_MS):  # fmt: skip
            if chunk <= longest:
                return chunk
        return SECOND_MS


def ending_before(config: WorldConfig, now_ms: int) -> WorldConfig:
    """Move a world, by whole days, so that its last event lies just before ``now_ms``.

    A receiver that refuses events from the future takes all of it. Weekdays follow the calendar,
    so another day's call is another world.
    """
    latest = now_ms - config.days * DAY_MS - config.horizon_ms
    return replace(config, start_ms=latest // DAY_MS * DAY_MS)


def demo(seed: int = 7) -> WorldConfig:
    """Give the world of the demonstration: 2,000 users, 1,500 items, 30 days."""
    return WorldConfig(seed=seed)


def million(seed: int = 7) -> WorldConfig:
    """Give a world of a million users and 100,000 items, for load and scale."""
    return WorldConfig(
        seed=seed, num_users=1_000_000, num_items=100_000, num_categories=120,
        sessions_per_user_day=0.3,
    )  # fmt: skip


PRESETS = {"demo": demo, "million": million}
"""Named worlds of the command line."""
