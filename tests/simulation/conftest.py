from __future__ import annotations

import pytest

from recsys.events.schema import Event, ImpressionEvent
from recsys.simulation import World, WorldConfig

SMALL = WorldConfig(num_users=400, num_items=500, num_categories=12, days=8, seed=11)


@pytest.fixture(scope="session")
def world() -> World:
    return World(SMALL)


@pytest.fixture(scope="session")
def events(world: World) -> list[Event]:
    return list(world.events())


@pytest.fixture(scope="session")
def impressions(events: list[Event]) -> list[ImpressionEvent]:
    return [event for event in events if isinstance(event, ImpressionEvent)]
