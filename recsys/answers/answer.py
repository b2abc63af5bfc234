"""What a request gets, before it is put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.feedback.exposure import GREEDY
from recsys.inference.user_reading import UserContext
from recsys.ranking.ranked import RankedItems
from recsys.ranking.request_rules import NOTHING_APPLIES, Applying
from recsys.wire import Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request gets, before it is put into words."""

    ranked: RankedItems
    user: UserContext | None
    """``None`` when the features could not be read."""
    rung: Rung
    degraded: str = ""
    """Why the rung is not ``full``, or what was left out of re-ranking."""
    now_ms: int
    """The moment of the answer: what rules and the age of items went by."""
    policy: str = GREEDY
    """How the list was drawn, with parameters; ``greedy`` where nothing was."""
    propensities: Sequence[float] = ()
    """Chance of each item at its place given those above; empty under ``greedy``."""
    applying: Applying = NOTHING_APPLIES
    """The rules that held."""
    rules_version: str = ""
    """Of the operator's file; ``""`` where there is none."""
    candidates: RankedItems | None = None
    """What re-ranking chose from, best first, pins last; ``None`` where nothing was chosen."""
