"""What a user does with a shown list: look, click, read, add, buy, say so.

Axes: ``n`` requests, ``L`` places of a list, ``D`` latent dims, ``H`` items shown earlier in the
session. Item index -1 is an empty place.

Every choice compares a probability with a number named after (user, item, request), so the answer
to "would she have clicked?" does not depend on which policy asks, nor on what else is in the list.
Only examination is named after (user, request) alone: she looks down to a depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import Floats, Ints, State, Stream, fold, root, uniform
from recsys.simulation.items import Items
from recsys.simulation.users import Profiles, Users

Bools = npt.NDArray[np.bool_]

_LONG_VIEW, _CART, _PURCHASE, _LIKE, _NOT_INTERESTED, _DWELL, _DELAY = range(1, 8)
_PACE, _GOES_ON = range(1, 3)


@dataclass(frozen=True, kw_only=True)
class SessionState:
    """What earlier pages of the same session left behind."""

    interest: Floats
    """[n, D] decayed sum of the vectors of clicked items."""
    shown: Ints
    """[n, H] items shown earlier in the session."""

    @classmethod
    def fresh(cls, num_requests: int, latent_dims: int) -> SessionState:
        """Give the state at the first page."""
        return cls(
            interest=np.zeros((num_requests, latent_dims)),
            shown=np.empty((num_requests, 0), dtype=np.int64),
        )

    def rows(self, rows: npt.NDArray[np.intp]) -> SessionState:
        """Give the state of some requests."""
        return SessionState(interest=self.interest[rows], shown=self.shown[rows])


@dataclass(frozen=True, kw_only=True)
class Reaction:
    """What happened on one page of each request; arrays [n, L] unless said otherwise."""

    examined: Bools
    click: Bools
    long_view: Bools
    add_to_cart: Bools
    purchase: Bools
    like: Bools
    not_interested: Bools
    look_ms: Ints
    """When the place is looked at; the time of ``not_interested``."""
    click_ms: Ints
    view_end_ms: Ints
    """Click plus dwell: the time of a long view."""
    purchase_ms: Ints
    page_end_ms: Ints
    """[n] when the user is done with the list, purchases aside."""


class Behaviour:
    """The choice model of one world."""

    def __init__(self, config: WorldConfig, users: Users, items: Items) -> None:
        self._config = config
        self._users = users
        self._items = items
        self._click = root(config.seed, Stream.CLICK)
        self._examine = root(config.seed, Stream.EXAMINE)

    # --- probabilities --------------------------------------------------------------------------
    def examination(self, positions: Ints) -> Floats:
        """Give the chance that a position (from 0) is looked at."""
        return np.asarray((positions + 1.0) ** -self._config.position_bias_exponent)

    def click_logits(
        self, profiles: Profiles, slate: Ints, time_ms: Ints, state: SessionState
    ) -> tuple[Floats, Floats]:
        """Give the logit of a click given examination, and the affinity, both [n, L]."""
        config, items = self._config, self._items
        vector = items.vector.take(slate, axis=0, mode="clip").astype(np.float64)
        affinity = _dot(vector, self._users.tastes(profiles, time_ms))
        length = np.sqrt((state.interest * state.interest).sum(axis=1, keepdims=True))
        logit = config.click_bias + config.click_affinity * affinity
        logit += config.click_session * _dot(vector, state.interest / np.maximum(length, 1.0))
        logit += config.click_popularity * items.quality[slate]
        price = profiles.price_sensitivity[:, None] * items.log_price[slate]
        logit -= config.click_price * price
        logit += config.click_novelty * items.novelty(slate, time_ms[:, None])
        need = self._users.staple_need(profiles, time_ms)
        for s in range(profiles.staples.shape[1]):
            logit += config.click_staple * (
                (slate == profiles.staples[:, s, None]) * need[:, s, None]
            )
        if state.shown.shape[1]:
            times_shown = (slate[:, :, None] == state.shown[:, None, :]).sum(axis=2)
            logit -= config.click_fatigue * times_shown
        return logit, affinity

    def click_luck(self, profiles: Profiles, slate: Ints, request: State) -> State:
        """Give the name under which all choices of (user, item, request) are drawn, [n, L]."""
        name = fold(fold(self._click, profiles.index), request)
        return fold(name[:, None], slate)

    def examined(self, profiles: Profiles, positions: Ints, request: State) -> Bools:
        """Tell which positions [n, L] are looked at: all down to a depth of her own."""
        name = fold(fold(self._examine, profiles.index), request)
        return np.asarray(uniform(name)[:, None] < self.examination(positions))

    # --- choices --------------------------------------------------------------------------------
    def react(
        self,
        profiles: Profiles,
        slate: Ints,
        positions: Ints,
        time_ms: Ints,
        request: State,
        state: SessionState,
    ) -> Reaction:
        """Give what each user does with her list; ``request`` [n] names the request."""
        config = self._config
        logit, affinity = self.click_logits(profiles, slate, time_ms, state)
        luck = self.click_luck(profiles, slate, request)
        present = slate >= 0
        examined = self.examined(profiles, positions, request) & present
        click = examined & (uniform(luck) < sigmoid(logit))

        long_view, add_to_cart = np.zeros_like(click), np.zeros_like(click)
        purchase, like = np.zeros_like(click), np.zeros_like(click)
        dwell_ms = np.zeros(click.shape)
        delay_ms = np.zeros(click.shape)
        at = np.nonzero(click)
        name, warmth = luck[at], config.chain_affinity * affinity[at]
        long_view[at] = _chance(name, _LONG_VIEW, config.long_view_bias + warmth)
        add_to_cart[at] = long_view[at] & _chance(name, _CART, config.add_to_cart_bias + warmth)
        purchase[at] = add_to_cart[at] & _chance(name, _PURCHASE, config.purchase_bias + warmth)
        like[at] = long_view[at] & _chance(name, _LIKE, config.like_bias + warmth)
        median_ms = np.where(long_view[at], 35_000.0, 5_000.0)
        dwell_ms[at] = np.minimum(median_ms * _spread(name, _DWELL, 0.6), config.max_dwell_ms)
        delay_ms[at] = np.minimum(
            config.purchase_delay_ms * _spread(name, _DELAY, 1.2), config.max_purchase_delay_ms
        )
        dislike = config.not_interested_rate * sigmoid(-8.0 * (affinity + 0.15))
        unwanted = examined & ~click
        not_interested = unwanted & (uniform(fold(luck, _NOT_INTERESTED)) < dislike)

        places = np.arange(1, slate.shape[1] + 1)
        earlier_views_ms = np.cumsum(dwell_ms, axis=1) - dwell_ms
        look = np.minimum(config.look_ms * places + earlier_views_ms, config.max_page_ms - 500)
        look_ms = time_ms[:, None] + look.astype(np.int64)
        click_ms = look_ms + 500
        view_end_ms = click_ms + np.maximum(dwell_ms, 1.0).astype(np.int64)
        last_look = np.where(examined, look_ms, time_ms[:, None]).max(axis=1)
        last_view = np.where(click, view_end_ms, 0).max(axis=1)
        return Reaction(
            examined=examined,
            click=click,
            long_view=long_view,
            add_to_cart=add_to_cart,
            purchase=purchase,
            like=like,
            not_interested=not_interested,
            look_ms=look_ms,
            click_ms=click_ms,
            view_end_ms=view_end_ms,
            purchase_ms=view_end_ms + 2_000 + delay_ms.astype(np.int64),
            page_end_ms=np.maximum(last_look, last_view) + 4_000,
        )

    # --- what carries over to the next page -----------------------------------------------------
    def after(self, state: SessionState, slate: Ints, reaction: Reaction) -> SessionState:
        """Give the state the next page of the session starts with."""
        pull = reaction.click + 0.5 * reaction.long_view
        gained = (self._items.vector[slate] * pull[:, :, None]).sum(axis=1)
        return SessionState(
            interest=self._config.session_memory * state.interest + gained,
            shown=np.concatenate([state.shown, slate], axis=1),
        )

    def next_request_ms(self, profiles: Profiles, request: State, reaction: Reaction) -> Ints:
        """Give when each user asks for the next page, -1 when the session is over, [n]."""
        config = self._config
        name = fold(fold(self._examine, profiles.index), request)
        chance = config.next_page_probability + config.next_page_click_bonus * reaction.click.any(
            axis=1
        )
        pause = np.minimum(config.page_gap_ms * _spread(name, _PACE, 0.8), config.max_page_gap_ms)
        goes_on = uniform(fold(name, _GOES_ON)) < chance
        return np.where(goes_on, reaction.page_end_ms + pause.astype(np.int64), -1)


def sigmoid(logit: Floats) -> Floats:
    """Give 1 / (1 + exp(-logit)), without overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -50.0, 50.0))))


def _chance(name: State, purpose: int, logit: Floats) -> Bools:
    return np.asarray(uniform(fold(name, purpose)) < sigmoid(logit))


def _spread(name: State, purpose: int, sigma: float) -> Floats:
    """Give log-normal factors with median 1."""
    state = fold(name, purpose)
    radius = np.sqrt(-2.0 * np.log(uniform(fold(state, 0))))
    return np.asarray(np.exp(sigma * radius * np.cos(2.0 * np.pi * uniform(fold(state, 1)))))


def _dot(vectors: Floats, weights: Floats) -> Floats:
    """Give [n, L] products of [n, L, D] with [n, D], in an order that no batch size changes."""
    return np.asarray(np.einsum("nld,nd->nl", vectors, weights))
