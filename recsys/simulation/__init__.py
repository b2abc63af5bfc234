"""A simulated world: a log with known propensities, and the truth behind it.

The model is in ``docs/simulation.md``. Read ``config`` for the parameters, then ``users``,
``items``, ``policy`` and ``behaviour`` for what they mean, ``sessions`` and ``stream`` (with
``columns`` and ``event_maker``) for how a log comes about, ``truth`` for the questions only a
simulator can answer.
"""

from recsys.simulation.behaviour import SessionState
from recsys.simulation.config import PRESETS, WorldConfig, demo, ending_before, million
from recsys.simulation.truth import LoggedRequests
from recsys.simulation.world import Response, Visit, World

__all__ = [
    "PRESETS",
    "LoggedRequests",
    "Response",
    "SessionState",
    "Visit",
    "World",
    "WorldConfig",
    "demo",
    "ending_before",
    "million",
]
