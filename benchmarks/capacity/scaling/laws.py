"""The laws of the study in one structure: what the capacity model computes with, and all it knows.

Times are CPU milliseconds of one core of the machine they were measured on; sizes are bytes.
``predict.py`` says what they mean together.
"""

from __future__ import annotations

import msgspec

from benchmarks.capacity.scaling.fit import PowerLaw

PARTS = ("api", "model server", "triton", "redis", "kafka", "stream")
"""Whose CPU a request takes, in the order of the tables."""


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of a call with so many users, by what was varied alone."""

    batch: int
    prepare_history: PowerLaw
    retrieve_items: dict[str, PowerLaw]
    """By ``exact`` and ``approximate``."""
    retrieve_candidates: PowerLaw
    retrieve_history: PowerLaw
    rank_candidates: PowerLaw
    rank_history: PowerLaw
    rank_features: PowerLaw
    rest: float
    """Of the whole answer beside the three stages: the best ``k``."""


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """Around which each axis moved."""

    items: int
    candidates: int
    history: int
    features: int
    users: int
    """Stored in Redis while users of more and of fewer events were."""


class PartLaw(msgspec.Struct, frozen=True, kw_only=True):
    """CPU milliseconds a second of one part, by requests and events a second."""

    idle: float
    """While nobody asks."""
    by_rate: PowerLaw
    """By requests a second of one process, idling among it. Of the model server what is neither
    arithmetic nor idling."""
    error: float
    """Median relative difference of the fitted steps."""


class EventLaw(msgspec.Struct, frozen=True, kw_only=True):
    """CPU milliseconds of one part for events that arrive over HTTP."""

    post: float
    event: float


class Laws(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    base: Base
    kernels: list[Kernel]
    """For two numbers of users in a call; a call of others is a line in them."""
    warm: float
    """A kernel's milliseconds in a model server that is never idle, over those in a loop …"""
    cold: float
    """… and what is added to that in one that is always idle: after a pause caches are cold."""
    call_users: PowerLaw
    """Users in a call beyond the first, by requests a second times seconds of a call of one."""
    parts: dict[str, PartLaw]
    events: dict[str, EventLaw]
    worker_us: float
    """Stream worker, microseconds an event, all declared features, at its own pace."""
    redis_event_us: float
    kafka_event_us: float
    kafka_event_bytes: float
    """On the disk, compressed."""
    posted_event_bytes: float
    """As JSON in a request."""
    kafka_request_bytes: float
    """Exposures."""
    user_bytes: PowerLaw
    """In Redis, by events of the user."""
    user_bytes_by_users: PowerLaw
    read_redis_ms: PowerLaw
    """By users that are stored."""
    read_bytes: PowerLaw
    """By events of the user."""
    model_bytes: dict[str, PowerLaw]
    """Resident memory of a bundle's process by items, ``exact`` and ``approximate``."""
    api_bytes: float
    """Resident memory of an API process …"""
    api_item_bytes: float
    """… and what each item of each bundle adds."""
    item_bytes: float
    """Of an item's hash in Redis."""
    answer_bytes: float
    call_bytes: float
    """A user's tensors to the model server and back."""
    most_rate: float
    """The highest rate of one process of each part that was measured with all answers full."""
