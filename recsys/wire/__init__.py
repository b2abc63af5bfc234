"""Requests and answers of the HTTP API, shared by the server and the client.

msgspec decodes and validates in one pass. Unknown fields of a request are refused: a misspelt
option would otherwise be ignored in silence. Answers may grow fields, and leave out those at their
default; a client ignores fields it does not know.
"""

from recsys.wire.events import EventRefusal, EventsResponse
from recsys.wire.health import Check, Health, Readiness
from recsys.wire.lists import (
    RankedItem,
    RankResponse,
    Reasons,
    RecommendedItem,
    RecommendResponse,
    RuleEffect,
    SimilarItem,
    SimilarResponse,
)
from recsys.wire.problems import Error, ErrorResponse
from recsys.wire.replays import Contribution, ReplayedItem, ReplayPart, ReplayResponse
from recsys.wire.requests import (
    Boost,
    Filters,
    Freshness,
    Pin,
    RankRequest,
    RecommendRequest,
)
from recsys.wire.users import HistoryItem, UserProfile, UserResponse, UserSummary
from recsys.wire.values import (
    MAX_BODY_BYTES,
    MAX_BOOSTED_ITEMS,
    MAX_BOOSTS,
    MAX_EXCLUDED_ITEMS,
    MAX_HISTORY_ITEMS,
    MAX_K,
    MAX_PINS,
    MAX_RANK_ITEMS,
    RUNGS,
    CategoryName,
    CategoryNames,
    DiversityBy,
    DiversityMethod,
    Factor,
    HalfLifeHours,
    K,
    ObjectiveWeight,
    Position,
    Rung,
    Tags,
)

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_BOOSTED_ITEMS",
    "MAX_BOOSTS",
    "MAX_EXCLUDED_ITEMS",
    "MAX_HISTORY_ITEMS",
    "MAX_K",
    "MAX_PINS",
    "MAX_RANK_ITEMS",
    "RUNGS",
    "Boost",
    "CategoryName",
    "CategoryNames",
    "Check",
    "Contribution",
    "DiversityBy",
    "DiversityMethod",
    "Error",
    "ErrorResponse",
    "EventRefusal",
    "EventsResponse",
    "Factor",
    "Filters",
    "Freshness",
    "HalfLifeHours",
    "Health",
    "HistoryItem",
    "K",
    "ObjectiveWeight",
    "Pin",
    "Position",
    "RankRequest",
    "RankResponse",
    "RankedItem",
    "Readiness",
    "Reasons",
    "RecommendRequest",
    "RecommendResponse",
    "RecommendedItem",
    "ReplayPart",
    "ReplayResponse",
    "ReplayedItem",
    "RuleEffect",
    "Rung",
    "SimilarItem",
    "SimilarResponse",
    "Tags",
    "UserProfile",
    "UserResponse",
    "UserSummary",
]
