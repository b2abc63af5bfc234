"""A simulated world: its log, its truth, and its answer to lists that somebody else shows.

>>> world = World(WorldConfig(num_users=50, num_items=200, days=2))
>>> events = list(world.events())
>>> events == list(world.events())
True
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import InputError
from recsys.events.schema import Event
from recsys.simulation.behaviour import SessionState
from recsys.simulation.config import WorldConfig
from recsys.simulation.event_maker import EventMaker
from recsys.simulation.policy import Slates
from recsys.simulation.sessions import Page
from recsys.simulation.stream import EventStream
from recsys.simulation.truth import Truth


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A session that starts: somebody to show a list to."""

    user_id: str
    time_ms: int
    context: dict[str, str]
    """Country and device, as an impression's context has them."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a user did with a list of a live system."""

    events: list[Event]
    """The impression, then what followed, in event-time order."""
    next_request_ms: int | None
    """When she asks for another list; ``None`` when the session is over."""
    state: SessionState
    """Pass it to the ``respond`` of her next list."""


class World(Truth):
    """One simulated world. Holds the catalogue and nothing per user; threads may share it.

    Users and items are named by id (``"u0000012"``, ``"i000345"``) or by index; ids it does not
    have are refused with ``InputError``. Times are epoch ms UTC.
    """

    def __init__(self, config: WorldConfig) -> None:
        super().__init__(config)
        self._maker = EventMaker(config, self.names, self.users, self.items)
        self._stream = EventStream(config, self.users, self.items, self.sessions, self._maker)

    @property
    def first_event_ms(self) -> int:
        """Give the time of the first announcement, before the first session."""
        return self.config.start_ms - self.config.prelude_ms

    @property
    def last_event_ms(self) -> int:
        """Give an instant at and after which nothing happens."""
        return self.config.end_ms + self.config.horizon_ms

    def events(self, start_ms: int | None = None, end_ms: int | None = None) -> Iterator[Event]:
        """Give the log's events with ``start_ms <= event_time_ms < end_ms`` in order.

        Unset bounds mean all there is. ``events(a, c)`` is ``events(a, b)`` and then
        ``events(b, c)``. Starting in the middle first plays ``config.horizon_ms`` of sessions.
        """
        return self._stream.events(
            self.first_event_ms if start_ms is None else start_ms,
            self.last_event_ms if end_ms is None else end_ms,
        )

    def visits(self, start_ms: int, end_ms: int) -> Iterator[Visit]:
        """Give the sessions that start in [start_ms, end_ms), in order, without playing them.

        For closed loops: show each of them a list of your own and ask ``respond``.
        """
        size, origin = self.sessions.chunk_ms, self.config.start_ms
        for chunk in range((start_ms - origin) // size, (end_ms - 1 - origin) // size + 1):
            visits = self.sessions.visits(chunk)
            inside = (visits.start_ms >= start_ms) & (visits.start_ms < end_ms)
            rows = np.flatnonzero(inside)
            visits = visits.rows(rows[np.lexsort((visits.number[rows], visits.start_ms[rows]))])
            attributes = self.users.attributes(visits.user)
            for user, time_ms, about in zip(
                visits.user.tolist(), visits.start_ms.tolist(), attributes, strict=True
            ):
                context = {"country": about["country"], "device": about["device"]}
                yield Visit(user_id=self.names.user_id(user), time_ms=time_ms, context=context)

    def respond(
        self,
        user_id: str | int,
        item_ids: Sequence[str],
        *,
        request_id: str,
        time_ms: int,
        state: SessionState | None = None,
        first_position: int = 0,
        propensities: Sequence[float] = (),
        policy: str = "",
    ) -> Response:
        """Show a list to a simulated user and give what she does.

        The same arguments always give the same answer, and ``would_click`` with the same request
        and state agrees with it. ``state`` is what the previous response of her session returned;
        without it a session begins. ``propensities`` and ``policy`` go into the impression.

        Raises:
            InputError: for an unknown user or item, an empty list, or one longer than 1,000; also
                for a request id of the log, which was answered there.
        """
        user, slate = self.names.users(user_id), self.names.items(item_ids)[None, :]
        if not 1 <= slate.shape[1] <= 1000:
            raise InputError(
                f"a shown list has 1 to 1000 items, found {slate.shape[1]}", field="item_ids"
            )
        if not 1 <= len(request_id) <= 100:
            raise InputError(
                f"a request id has 1 to 100 characters, found {len(request_id)}; event ids are "
                "made by adding to it",
                field="request_id",
            )
        if self.names.logged_request(request_id) is not None:
            raise InputError(
                f"request {request_id} is one of the log's; give the live list an id of its own",
                field="request_id",
            )
        profiles, request = self.profiles(user), self.request_name(request_id)
        state = state or SessionState.fresh(1, self.config.latent_dims)
        time = np.array([time_ms])
        places = first_position + np.arange(slate.shape[1])[None, :]
        reaction = self.behaviour.react(profiles, slate, places, time, request, state)
        page = Page(
            page=0,
            rows=np.arange(1),
            time_ms=time,
            request=request,
            profiles=profiles,
            state=state,
            slates=Slates(
                items=slate,
                propensities=np.array([propensities], dtype=np.float64),
                candidates=slate,
                scores=np.zeros(slate.shape),
            ),
            reaction=reaction,
        )
        following = int(self.behaviour.next_request_ms(profiles, request, reaction)[0])
        return Response(
            events=self._maker.live(page, request_id, first_position, policy),
            next_request_ms=following if following >= 0 else None,
            state=self.behaviour.after(state, slate, reaction),
        )
