"""Candidates from this process's memory, for when no server is asked or none answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.answers.asked import Asked
from recsys.features.names import token_hash
from recsys.inference.live import LiveBundle
from recsys.inference.user_reading import UserContext
from recsys.ranking import filters, from_memory
from recsys.ranking.ranked import RankedItems
from recsys.ranking.request_rules import Applying
from recsys.ranking.reranking import candidates_needed
from recsys.resilience.recent_users import NO_PAST, UserPast
from recsys.wire import RecommendRequest, Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What memory gives."""

    ranked: RankedItems
    rung: Rung
    rules: Applying
    said: str
    """What it was made of, for the answer."""


def remembered(asked: Asked, live: LiveBundle | None, user: UserContext | None) -> Remembered:
    """Give candidates by what is known of the user without the servers."""
    request = asked.request
    past, origin = _past(asked, live, user)
    rules = asked.rules(past.token_hashes.tolist())
    found = from_memory.choose(
        asked.bundle,
        past if user is not None else past.with_tokens(_said_tokens(request)),
        excluded=(asked.excluded, past.history_index if request.exclude_seen else filters.NOTHING),
        item_filter=asked.item_filter,
        needed=candidates_needed(request, rules, None),
        pinned=np.array([pin.row for pin in rules.pins], dtype=np.int32),
        now_ms=asked.now_ms,
    )
    said = "; ".join(part for part in (origin, found.said) if part)
    return Remembered(ranked=found.ranked, rung=found.rung, rules=rules, said=said)


def _past(asked: Asked, live: LiveBundle | None, user: UserContext | None) -> tuple[UserPast, str]:
    """Give what is known of the user without the servers, and where from."""
    if user is not None:
        return user.past, ""
    past = (live.recent_users.find(asked.request.user_id) if live else None) or NO_PAST
    origin = "user as last read" if past is not NO_PAST else ""
    rows = asked.bundle.vocabulary.indexes(asked.request.history_item_ids)
    rows = rows[rows != 0]
    if len(rows):
        origin = f"{origin}; history of the request" if origin else "history of the request"
        past = past.followed_by(rows, asked.now_ms)
    return past, origin


def _said_tokens(request: RecommendRequest) -> list[int]:
    return [token_hash(f"{key}={value}") for key, value in request.context.items()]
