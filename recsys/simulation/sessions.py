"""Who comes when, and what happens from her first list to her last.

Arrivals are independent inhomogeneous Poisson processes, one per user, with rate

    lambda_u(t) = sessions_per_user_day * activity_u * rhythm_country(t)     after sign-up.

They are drawn together, one chunk of time after the other, by thinning: proposals at the highest
rate any user can have, each kept with the ratio of its own rate. A proposal is named by its chunk
and its number, so any session can be played again alone, and no user is ever visited in vain.

Source: Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", 1979.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.clock import DAY_MS
from recsys.simulation.behaviour import Behaviour, Reaction, SessionState
from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import (
    Ints,
    State,
    Stream,
    fold,
    root,
    table_generator,
    uniform,
)
from recsys.simulation.items import Items
from recsys.simulation.policy import LoggingPolicy, Slates
from recsys.simulation.users import MAX_RATE, Profiles, Users

_WHO, _WHEN, _KEPT = range(3)


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Sessions of the log: who came when."""

    chunk: Ints
    number: Ints
    """[n] the session's name."""
    user: Ints
    start_ms: Ints

    def rows(self, rows: npt.NDArray[np.intp] | slice) -> Visits:
        """Give some of them."""
        return Visits(
            chunk=self.chunk[rows],
            number=self.number[rows],
            user=self.user[rows],
            start_ms=self.start_ms[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Page:
    """One list of each session that came as far as this page."""

    page: int
    rows: npt.NDArray[np.intp]
    """[n] which of the visits played."""
    time_ms: Ints
    """[n] time of the request."""
    request: State
    """[n] the request's name in random draws."""
    profiles: Profiles
    state: SessionState
    """Before the list was shown."""
    slates: Slates
    reaction: Reaction


class Sessions:
    """Draws and plays the sessions of one world's log."""

    def __init__(
        self,
        config: WorldConfig,
        users: Users,
        items: Items,
        policy: LoggingPolicy,
        behaviour: Behaviour,
    ) -> None:
        self._config = config
        self._users = users
        self._items = items
        self._policy = policy
        self._behaviour = behaviour
        self._arrival = root(config.seed, Stream.ARRIVAL)
        self._session = root(config.seed, Stream.SESSION)
        self.chunk_ms = config.chunk_ms

    @property
    def num_chunks(self) -> int:
        """Give how many chunks have sessions: 0 to this, exclusive."""
        return -(-(self._config.end_ms - self._config.start_ms) // self.chunk_ms)

    def num_proposals(self, chunk: int) -> int:
        """Give how many sessions are proposed in a chunk."""
        config = self._config
        rate = config.sessions_per_user_day * self._users.max_activity * MAX_RATE
        mean = config.num_users * rate * self.chunk_ms / DAY_MS
        rng = table_generator(config.seed, Stream.ARRIVAL, chunk)
        return int(rng.poisson(mean))

    def visits(self, chunk: int) -> Visits:
        """Give the sessions that start in a chunk, in no particular order."""
        count = self.num_proposals(chunk) if 0 <= chunk < self.num_chunks else 0
        kept = [
            self.propose(np.full(len(block), chunk), block)
            for block in np.split(np.arange(count), range(100_000, count, 100_000))
        ]
        parts = [visits.rows(np.flatnonzero(mask)) for visits, mask in kept]
        return Visits(
            chunk=np.concatenate([part.chunk for part in parts]),
            number=np.concatenate([part.number for part in parts]),
            user=np.concatenate([part.user for part in parts]),
            start_ms=np.concatenate([part.start_ms for part in parts]),
        )

    def propose(self, chunk: Ints, number: Ints) -> tuple[Visits, npt.NDArray[np.bool_]]:
        """Give the proposed sessions of these names and which of them really happen."""
        config = self._config
        name = fold(fold(self._arrival, chunk), number)
        user = (uniform(fold(name, _WHO)) * config.num_users).astype(np.int64)
        within = (uniform(fold(name, _WHEN)) * self.chunk_ms).astype(np.int64)
        start_ms = config.start_ms + chunk * self.chunk_ms + within
        country, _, _ = self._users.demographics(user)
        rate = self._users.activity(user) * self._users.rhythm(country, start_ms)
        happens = uniform(fold(name, _KEPT)) * (self._users.max_activity * MAX_RATE) < rate
        happens &= self._users.sign_up_ms(user) <= start_ms
        happens &= start_ms < config.end_ms
        return Visits(chunk=chunk, number=number, user=user, start_ms=start_ms), happens

    def request_names(self, visits: Visits, page: int) -> State:
        """Give the names of the requests of one page, [n]."""
        return fold(fold(fold(self._session, visits.chunk), visits.number), page)

    def play(self, visits: Visits) -> Iterator[Page]:
        """Play sessions page by page; a page only has the sessions that reached it."""
        config = self._config
        rows = np.arange(len(visits.user))
        profiles = self._users.profiles(visits.user, self._items.staple)
        state = SessionState.fresh(len(rows), config.latent_dims)
        time_ms = visits.start_ms
        positions = np.arange(config.list_length)[None, :]
        for page in range(config.max_pages):
            if not len(rows):
                return
            request = self.request_names(visits.rows(rows), page)
            slates = self._policy.slates(profiles, time_ms, request)
            reaction = self._behaviour.react(
                profiles, slates.items, positions, time_ms, request, state
            )
            yield Page(
                page=page,
                rows=rows,
                time_ms=time_ms,
                request=request,
                profiles=profiles,
                state=state,
                slates=slates,
                reaction=reaction,
            )
            following = self._behaviour.next_request_ms(profiles, request, reaction)
            latest = visits.start_ms[rows] + config.max_session_ms
            going_on = np.flatnonzero((following >= 0) & (following <= latest))
            state = self._behaviour.after(state, slates.items, reaction).rows(going_on)
            rows, profiles = rows[going_on], profiles.rows(going_on)
            time_ms = following[going_on]
