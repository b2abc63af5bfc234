"""What the log cannot say: true probabilities, and what would have happened otherwise.

Axes: ``n`` pairs or requests, ``L`` places of a list, ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from recsys.errors import InputError
from recsys.simulation.behaviour import Behaviour, SessionState, sigmoid
from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import (
    Floats,
    Ints,
    State,
    Stream,
    fold,
    root,
    text_key,
    uniform,
)
from recsys.simulation.items import Items
from recsys.simulation.names import Names, NamesLike
from recsys.simulation.policy import LoggingPolicy
from recsys.simulation.sessions import Page, Sessions
from recsys.simulation.users import Profiles, Users

_BATCH = 512
"""Sessions replayed together; bounds memory."""


@dataclass(frozen=True, kw_only=True)
class LoggedRequests:
    """The ground truth behind requests of the log, for estimators."""

    user: Ints
    """[n] user index."""
    time_ms: Ints
    """[n]"""
    items: Ints
    """[n, L] the shown list, -1 where the candidates ran out."""
    propensities: Floats
    """[n, L] as in the impression; 1 at -1."""
    clicks: npt.NDArray[np.bool_]
    """[n, L] as in the log."""
    candidates: Ints
    """[n, C] what the policy chose from, -1 where a draw dropped out."""
    scores: Floats
    """[n, C] logits of the policy's softmax, ``-inf`` at -1."""
    click_probability: Floats
    """[n, C] chance of a click given examination, in the session as it was; 0 at -1."""
    would_click: npt.NDArray[np.bool_]
    """[n, C] whether she would have clicked, had she looked at it; false at -1."""


class Truth:
    """The components of one world and the questions only a simulator can answer."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.names = Names(config)
        self.items = Items(config)
        self.users = Users(config, self.items.centroids)
        self.behaviour = Behaviour(config, self.users, self.items)
        self.policy = LoggingPolicy(config, self.users, self.items)
        self.sessions = Sessions(config, self.users, self.items, self.policy, self.behaviour)
        self._foreign = root(config.seed, Stream.REQUEST)
        self._logged_page = lru_cache(maxsize=64)(self._replay)

    # --- probabilities --------------------------------------------------------------------------
    def click_probability(
        self,
        user_ids: NamesLike,
        item_ids: NamesLike,
        time_ms: int | Ints,
        position: int | Ints | None = None,
    ) -> Floats:
        """Give the chance of a click by pairs of user and item at the start of a session.

        Arguments broadcast to [n]. With ``position`` the chance of looking there is included;
        without it, it is the chance given that she looks. Whether the item is on offer at that
        time is not asked.
        """
        users, items, times = np.broadcast_arrays(
            self.names.users(user_ids), self.names.items(item_ids), np.atleast_1d(time_ms)
        )
        distinct, which = np.unique(users, return_inverse=True)
        profiles = self.profiles(distinct)
        parts = [
            self._chance(profiles.rows(which[block]), items[block], times[block])
            for block in np.split(np.arange(len(users)), range(20_000, len(users), 20_000))
        ]
        chance = np.concatenate(parts)
        if position is not None:
            chance = chance * self.behaviour.examination(np.asarray(position))
        return chance

    def expected_clicks(
        self, user_id: str | int, item_ids: NamesLike, time_ms: int, first_position: int = 0
    ) -> float:
        """Give the mean number of clicks on a list shown at the start of a session."""
        items = self.names.items(item_ids)
        places = first_position + np.arange(len(items))
        return float(self.click_probability(user_id, items, time_ms, places).sum())

    def best_items(self, user_id: str | int, time_ms: int, k: int) -> list[str]:
        """Give the k items on offer she would most probably click, best first.

        No other list has more expected clicks. Fewer than k come back when fewer are on offer.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, found {k}", field="k")
        index = np.arange(self.config.num_items)
        index = index[self.items.available(index, np.asarray(time_ms))]
        chance = self.click_probability(user_id, index, time_ms)
        return [str(self.items.ids[i]) for i in index[np.argsort(-chance, kind="stable")[:k]]]

    # --- counterfactual outcomes ----------------------------------------------------------------
    def would_click(
        self,
        user_id: str | int,
        item_ids: NamesLike,
        time_ms: int,
        request_id: str,
        *,
        position: int | Ints | None = None,
        state: SessionState | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Tell for each item whether she would click it in this request, [n].

        Common random numbers: the answer depends on user, item, request and session, not on who
        asks nor on the rest of the list. Without ``position``: given that she looks at it; with
        it: had it stood there.

        For a request of the log the session is as it was, and the answers for the shown items at
        their positions are what the log has. For other requests it is ``state``, by default the
        start of a session.

        Raises:
            InputError: for unknown ids, or when a request of the log had another user or time.
        """
        user, items = self.names.users(user_id), self.names.items(item_ids)
        name = self.names.logged_request(request_id)
        if name is None:
            profiles, request = self.profiles(user), self.request_name(request_id)
            state = state or SessionState.fresh(1, self.config.latent_dims)
        else:
            page = self._logged_page(request_id, *name)
            self._same_request(request_id, page, int(user[0]), time_ms)
            profiles, request, state = page.profiles, page.request, page.state
        slate, time = items[None, :], np.array([time_ms])
        logit, _ = self.behaviour.click_logits(profiles, slate, time, state)
        clicks = uniform(self.behaviour.click_luck(profiles, slate, request)) < sigmoid(logit)
        if position is not None:
            places = np.broadcast_to(np.atleast_1d(position), items.shape)[None, :]
            clicks &= self.behaviour.examined(profiles, places, request)
        return np.asarray(clicks[0])

    def logged_requests(self, request_ids: Sequence[str]) -> LoggedRequests:
        """Give the truth behind requests of the log, in the order asked for.

        Raises:
            InputError: for a request id that is not in this world's log.
        """
        names = [self.names.logged_request(request_id) for request_id in request_ids]
        if not names or None in names:
            raise self._not_logged(request_ids[names.index(None)] if names else "no request")
        wanted = np.array(names, dtype=np.int64)
        sessions, which = np.unique(wanted[:, :2], axis=0, return_inverse=True)
        visits, happens = self.sessions.propose(sessions[:, 0], sessions[:, 1])
        found = np.full(len(wanted), -1)
        parts: list[LoggedRequests] = []
        size = 0
        for first in range(0, len(sessions), _BATCH):
            for page in self.sessions.play(visits.rows(slice(first, first + _BATCH))):
                row_of_session = np.full(len(sessions), -1)
                row_of_session[first + page.rows] = np.arange(len(page.rows))
                rows = row_of_session[which.ravel()]
                here = np.flatnonzero((rows >= 0) & (wanted[:, 2] == page.page))
                found[here] = size + np.arange(len(here))
                size += len(here)
                parts.append(self._truth(page, rows[here]))
        missing = (found < 0) | ~happens[which.ravel()] | ~self._in_range(wanted)
        if missing.any():
            raise self._not_logged(request_ids[int(np.argmax(missing))])
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(parts[0])}
        return LoggedRequests(**{n: np.concatenate(c)[found] for n, c in columns.items()})

    # --- parts ----------------------------------------------------------------------------------
    def profiles(self, index: Ints) -> Profiles:
        """Give what is constant about users."""
        return self.users.profiles(index, self.items.staple)

    def request_name(self, request_id: str) -> State:
        """Give the name, in random draws, of a request that is not in the log, [1]."""
        return fold(self._foreign, text_key(request_id))

    def _chance(self, profiles: Profiles, items: Ints, times: Ints) -> Floats:
        state = SessionState.fresh(len(items), self.config.latent_dims)
        logit, _ = self.behaviour.click_logits(
            profiles, items[:, None], times.astype(np.int64), state
        )
        return sigmoid(logit[:, 0])

    def _replay(self, request_id: str, chunk: int, number: int, page: int) -> Page:
        visits, happens = self.sessions.propose(np.array([chunk]), np.array([number]))
        if happens[0] and self._in_range(np.array([[chunk, number]]))[0]:
            for played in self.sessions.play(visits):
                if played.page == page:
                    return played
        raise self._not_logged(request_id)

    def _in_range(self, wanted: Ints) -> npt.NDArray[np.bool_]:
        proposals = {c: self.sessions.num_proposals(c) for c in set(wanted[:, 0].tolist())}
        last = np.array([proposals[chunk] for chunk in wanted[:, 0].tolist()])
        return np.asarray((wanted[:, 0] < self.sessions.num_chunks) & (wanted[:, 1] < last))

    def _same_request(self, request_id: str, page: Page, user: int, time_ms: int) -> None:
        found_user, found_ms = int(page.profiles.index[0]), int(page.time_ms[0])
        if (found_user, found_ms) != (user, time_ms):
            raise InputError(
                f"request {request_id} is of {self.names.user_id(found_user)} at {found_ms}, "
                f"found {self.names.user_id(user)} at {time_ms}; pass what the log has",
                field="request_id",
            )

    def _not_logged(self, request_id: str) -> InputError:
        return InputError(
            f"wanted a request of the log of world {self.names.tag}, found {request_id!r}; "
            "take request ids from its impressions",
            field="request_id",
        )

    def _truth(self, page: Page, rows: npt.NDArray[np.intp]) -> LoggedRequests:
        profiles, state = page.profiles.rows(rows), page.state.rows(rows)
        candidates, request = page.slates.candidates[rows], page.request[rows]
        logit, _ = self.behaviour.click_logits(profiles, candidates, page.time_ms[rows], state)
        chance = np.where(candidates >= 0, sigmoid(logit), 0.0)
        luck = uniform(self.behaviour.click_luck(profiles, candidates, request))
        return LoggedRequests(
            user=profiles.index,
            time_ms=page.time_ms[rows],
            items=page.slates.items[rows],
            propensities=page.slates.propensities[rows],
            clicks=page.reaction.click[rows],
            candidates=candidates,
            scores=page.slates.scores[rows],
            click_probability=chance,
            would_click=luck < chance,
        )
