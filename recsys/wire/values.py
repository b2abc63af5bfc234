"""Values of requests and answers: how long and how large they may be, and what they may say."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from recsys.events.schema import Identifier

MAX_K = 500
"""Longest list of recommendations."""
MAX_RANK_ITEMS = 2_000
"""Longest list that can be ranked."""
MAX_EXCLUDED_ITEMS = 2_000
MAX_PINS = 50
"""Pinned items of a request."""
MAX_BOOSTS = 50
MAX_BOOSTED_ITEMS = 500
MAX_BODY_BYTES = 1_000_000
"""Longest request body."""
MAX_HISTORY_ITEMS = 100
"""Items acted on that a request may bring."""

Rung = Literal["full", "retrieval", "similar", "popular", "static"]
"""How an answer came about, best first; what may not be shown is left out on all of them, as far as
it is known.

``full``: features, retrieval and ranking. ``retrieval``: the order of the candidate sources, since
the ranker was late or failed. ``similar``: neighbours of the items the user acted on, from the
API's own memory. ``popular``: what is popular among users like this one, or among all. ``static``:
the popular items of the bundle that was served last, before one is taken up.
"""
RUNGS: tuple[Rung, ...] = ("full", "retrieval", "similar", "popular", "static")

K = Annotated[int, Meta(ge=1, le=MAX_K, description="Items wanted.")]
CategoryName = Annotated[str, Meta(max_length=64)]
CategoryNames = Annotated[list[CategoryName], Meta(max_length=64)]
Tags = Annotated[list[Identifier], Meta(max_length=64)]
ObjectiveWeight = Annotated[float, Meta(ge=0.0, le=1e6)]
Factor = Annotated[float, Meta(ge=1e-3, le=1e3)]
"""On an item's odds: 2 doubles them, 0.5 halves them, 1 changes nothing."""
HalfLifeHours = Annotated[float, Meta(ge=0.01, le=1e5)]
Position = Annotated[int, Meta(ge=0, le=MAX_K - 1)]
DiversityMethod = Literal["mmr", "dpp"]
DiversityBy = Literal["category", "embedding"]
