"""Requests and answers of the HTTP API, shared by the server and the client.

msgspec decodes and validates in one pass. Unknown fields of a request are refused: a misspelt
option would otherwise be ignored in silence. Answers may grow fields; a client ignores those it
does not know.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from recsys.events.schema import Context, Identifier

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

Rung = Literal["full", "retrieval", "similar", "popular", "static"]
"""How an answer came about, best first; what may not be shown is left out on all of them, as far as
it is known.

``full``: features, retrieval and ranking. ``retrieval``: the order of the candidate sources, since
the ranker was late or failed. ``similar``: neighbours of the items the user acted on, from the
API's own memory. ``popular``: what is popular among users like this one, or among all. ``static``:
the popular items of the bundle that was served last, before one is taken up.
"""
RUNGS: tuple[Rung, ...] = ("full", "retrieval", "similar", "popular", "static")
MAX_HISTORY_ITEMS = 100
"""Items acted on that a request may bring."""

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


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Filters(_Request, frozen=True, kw_only=True):
    """Which items may be shown. A category the live bundle does not know has no items."""

    categories: CategoryNames = []
    """Only these; empty allows all."""
    exclude_categories: CategoryNames = []
    tags: Tags = []
    """Only items with one of these ``key=value`` attributes; of several keys, with one of each."""
    exclude_tags: Tags = []


class Boost(_Request, frozen=True, kw_only=True):
    """Raises or lowers items by what they are; those of any of the lists are meant."""

    factor: Factor
    """Several boosts of an item multiply; below 1 an item is buried."""
    item_ids: Annotated[list[Identifier], Meta(max_length=MAX_BOOSTED_ITEMS)] = []
    categories: CategoryNames = []
    tags: Tags = []
    """``key=value`` of an item's attributes."""


class Pin(_Request, frozen=True, kw_only=True):
    """Puts an item at a place, unless it may not be shown."""

    item_id: Identifier
    position: Position
    """From 0. One from ``k`` on is ignored; in a shorter list, the item stands at the end."""


class Freshness(_Request, frozen=True, kw_only=True):
    """Raises new items: by ``factor`` at birth, by its square root a half life later, and so on."""

    factor: Factor
    half_life_h: HalfLifeHours
    """Hours in which the boost, as a logarithm, halves."""


class RecommendRequest(_Request, frozen=True, kw_only=True):
    """Asks for the next best items of a user."""

    user_id: Identifier
    k: K = 10
    exclude_item_ids: Annotated[list[Identifier], Meta(max_length=MAX_EXCLUDED_ITEMS)] = []
    """Must not come back; unknown ones are ignored."""
    exclude_seen: bool = True
    """Leave out what the user already acted on."""
    history_item_ids: Annotated[list[Identifier], Meta(max_length=MAX_HISTORY_ITEMS)] = []
    """What the caller knows the user acted on, latest last: used while the feature store does not
    answer; unknown ones are ignored."""
    filters: Filters = Filters()
    max_per_category: Annotated[int, Meta(ge=1, le=MAX_K)] | None = None
    """Most items of one category, as long as there are enough of others."""
    most_by_category: Annotated[
        dict[CategoryName, Annotated[int, Meta(ge=0, le=MAX_K)]], Meta(max_length=64)
    ] = {}
    """The same for single categories; the tighter holds."""
    least_by_category: Annotated[
        dict[CategoryName, Annotated[int, Meta(ge=1, le=MAX_K)]], Meta(max_length=64)
    ] = {}
    """Fewest items of a category, as far as its candidates and the caps go."""
    diversity: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """0: by score alone. Towards 1: items of a list are unlike each other."""
    diversity_method: DiversityMethod = "mmr"
    """``mmr``: unlike the most alike item above. ``dpp``: unlike all items above together."""
    diversity_by: DiversityBy = "category"
    """What makes items alike: one category, or close embeddings."""
    boosts: Annotated[list[Boost], Meta(max_length=MAX_BOOSTS)] = []
    freshness: Freshness | None = None
    """In place of the operator's."""
    pins: Annotated[list[Pin], Meta(max_length=MAX_PINS)] = []
    """Before the operator's."""
    explore: bool = True
    """Whether the operator's policy of exploration may draw; false: the best at every place."""
    objective_weights: Annotated[dict[str, ObjectiveWeight], Meta(max_length=16)] = {}
    """Blend objectives with these weights instead of the bundle's own."""
    context: Context = {}
    """What surrounds the request (device, page); goes to the exposure log, and to the ranker where
    the live bundle has learned the key. Send the same with the impression."""
    explain: bool = False
    """Add reasons to every item and the features used to the answer."""
    bundle: Identifier | None = None
    """The bundle to answer with, in place of the live one: one that is served beside it, as
    `recsys bundle list` shows. Any other is refused."""
    request_id: Identifier | None = None
    """The answer's own, where the caller has one: asked again with it, chance falls the same way.
    Use each for one answer only."""


class RankRequest(_Request, frozen=True, kw_only=True):
    """Asks for the order of given items for a user."""

    user_id: Identifier
    item_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=MAX_RANK_ITEMS)]
    """Distinct; one given twice is answered once."""
    objective_weights: Annotated[dict[str, ObjectiveWeight], Meta(max_length=16)] = {}
    context: Context = {}
    explain: bool = False
    bundle: Identifier | None = None
    """See ``RecommendRequest.bundle``."""


class RuleEffect(_Answer, frozen=True, kw_only=True):
    """What one rule did to an item."""

    rule: str
    """Name of the operator's rule, or ``request``."""
    action: Literal["boost", "freshness", "pin"]
    factor: float = 1.0
    """On the item's odds."""


class Reasons(_Answer, frozen=True, kw_only=True):
    """Why an item stands where it does."""

    sources: dict[str, float]
    """Raw score by candidate source; only those that scored the item."""
    objectives: dict[str, float]
    """Calibrated probability by objective; only on the rung ``full``."""
    rules: list[RuleEffect] = []
    """What rules did to the item; caps and minimums, which speak of the list, apart."""
    propensity: float = 1.0
    """Chance of the item at its place given those above it; 1 where nothing was drawn."""


class UserSummary(_Answer, frozen=True, kw_only=True):
    """What the answer knew about the user: the feature values that went into it."""

    as_of_ms: int
    """The moment the values speak of."""
    activity: dict[str, float]
    """Windowed aggregates by name; zeros are left out."""
    categories: dict[str, dict[str, float]]
    """Aggregates by category and name; zeros are left out."""
    history: list[HistoryItem]
    """Items acted on, most recent first."""


class HistoryItem(_Answer, frozen=True, kw_only=True):
    """An item a user acted on."""

    item_id: str
    count: float
    """Interactions so far."""
    last_ms: int
    """Event time of the latest."""
    title: str = ""


class RecommendedItem(_Answer, frozen=True, kw_only=True):
    """One item of an answer."""

    item_id: str
    score: float
    """Blended score of the models, before rules; comparable within one answer only."""
    position: int
    """From 0."""
    title: str = ""
    category: str = ""
    reasons: Reasons | None = None
    """On ``explain``."""


class RecommendResponse(_Answer, frozen=True, kw_only=True):
    """The next best items of a user."""

    request_id: str
    """Put it into impression and interaction events, so that they find this answer."""
    user_id: str
    known: bool
    """Whether anything was on record; an unknown user gets the cold start."""
    items: list[RecommendedItem]
    """Best first; fewer than ``k`` only when fewer may be shown."""
    bundle: str
    """The one bundle that served the whole request."""
    rung: Rung
    took_ms: float
    item_features_age_ms: int | None = None
    """Age of the moving item features that were used; on the rungs ``full``, ``retrieval``."""
    degraded: str = ""
    """Why the rung is not ``full``."""
    features: UserSummary | None = None
    """On ``explain``."""


class RankedItem(_Answer, frozen=True, kw_only=True):
    """One item of a ranked list."""

    item_id: str
    position: int
    known: bool
    """An item the live bundle does not know cannot be scored and stands at the end."""
    score: float | None = None
    title: str = ""
    category: str = ""
    reasons: Reasons | None = None


class RankResponse(_Answer, frozen=True, kw_only=True):
    """Given items in order."""

    request_id: str
    user_id: str
    known: bool
    items: list[RankedItem]
    bundle: str
    rung: Rung
    took_ms: float
    item_features_age_ms: int | None = None
    degraded: str = ""
    features: UserSummary | None = None


class SimilarItem(_Answer, frozen=True, kw_only=True):
    """One neighbour of an item."""

    item_id: str
    score: float
    """Cosine of the item embeddings."""
    position: int
    title: str = ""
    category: str = ""


class SimilarResponse(_Answer, frozen=True, kw_only=True):
    """The nearest other items of one item."""

    item_id: str
    items: list[SimilarItem]
    bundle: str
    took_ms: float


class EventRefusal(_Answer, frozen=True, kw_only=True):
    """Why one event of a batch was not taken."""

    index: int
    """Its place in the batch, from 0."""
    field: str
    """Path of the wrong field (``events[3].item_id``)."""
    code: str
    """``malformed``, ``schema``, ``time`` or ``duplicate``."""
    message: str


class EventsResponse(_Answer, frozen=True, kw_only=True):
    """What became of a batch of events. ``accepted`` ones are in the log for good, or on disk until
    the log is back."""

    accepted: int
    refused: int
    refusals: list[EventRefusal] = []


class UserProfile(_Answer, frozen=True, kw_only=True):
    """What user events say about a user: the latest attributes as ``key=value`` tokens."""

    status: Literal["present", "missing", "expired"]
    """``missing``: no user event ever came; ``expired``: the latest is older than the feature
    view's time to live, and what it said counts as unknown."""
    tokens: list[str] = []
    """Sorted; a list attribute gives a token for each element."""
    event_time_ms: int | None = None
    """Of the latest user event; absent when there was none."""
    age_ms: int | None = None
    """Of that event now."""


class UserResponse(_Answer, frozen=True, kw_only=True):
    """What the system knows about a user now."""

    user_id: str
    known: bool
    bundle: str
    """Whose vocabulary names the items and categories."""
    profile: UserProfile
    features: UserSummary


class ReplayPart(_Answer, frozen=True, kw_only=True):
    """One part of a past answer beside what it is when computed again."""

    name: Literal["sources", "objectives", "scores", "list", "propensities"]
    outcome: Literal["equal", "different", "not_recomputed"]
    """``equal``: to the last bit."""
    num_compared: int = 0
    """Values, of ``list`` none."""
    num_different: int = 0
    max_abs_diff: float = 0.0
    detail: str = ""
    """Why it was not computed again, or what it would be."""


class Contribution(_Answer, frozen=True, kw_only=True):
    """What one feature added to a score."""

    feature: str
    contribution: float
    """In the units of the score: log-odds, blended over objectives."""
    value: float | None = None
    """What the model was given; absent for a vector."""


class ReplayedItem(_Answer, frozen=True, kw_only=True):
    """One item of a past answer."""

    item_id: str
    position: int
    logged_score: float | None = None
    """As answered."""
    score: float | None = None
    """Computed again; absent where it was not."""
    objectives: dict[str, float] = {}
    sources: dict[str, float] = {}
    base: float | None = None
    """Score of the model knowing nothing of user, moment and item; on ``contributions``."""
    contributions: list[Contribution] = []
    """The strongest, strongest first. With ``base``, ``other_contributions`` and ``unexplained``
    they sum to the model's blended score."""
    other_contributions: float = 0.0
    unexplained: float = 0.0
    """Error of the numerical integral."""


class ReplayResponse(_Answer, frozen=True, kw_only=True):
    """A past answer computed again from its exposure and its bundle."""

    request_id: str
    user_id: str
    route: Literal["recommendations", "rank"]
    now_ms: int
    """When it was answered."""
    bundle: str
    rung: Rung
    policy: str
    rules: str
    """Version of the operator's rules; ``""``: none."""
    degraded: str = ""
    equal: bool
    """Every part was computed again and is equal to the last bit."""
    different: bool
    """Some part that was computed again is not."""
    parts: list[ReplayPart]
    items: list[ReplayedItem]


class Health(_Answer, frozen=True, kw_only=True):
    """The process lives."""

    status: Literal["ok"]
    version: str


class Check(_Answer, frozen=True, kw_only=True):
    """One part the API needs, and whether it answered at once."""

    ok: bool
    detail: str
    took_ms: float


class Readiness(_Answer, frozen=True, kw_only=True):
    """Whether requests should come to this process, and how the parts are."""

    ready: bool
    """False while the process takes its first bundle up, when it cannot read it, and once it was
    told to stop. Parts that are away leave it true: ``checks`` says so."""
    bundle: str | None
    """The live bundle; null while none is published, when only events are taken."""
    checks: dict[str, Check]


class Error(_Answer, frozen=True, kw_only=True):
    """What is wrong with a request, or with us."""

    code: str
    """In one word, for programs."""
    message: str
    """Wanted, found and what to do, for people."""
    field: str = ""
    """Path of the offending field; ``""`` when the whole is."""


class ErrorResponse(_Answer, frozen=True, kw_only=True):
    """Every answer from 400 on."""

    error: Error
    accepted: int = 0
    """Of ``POST /v1/events``: always 0 here; a batch with one good event is answered 202."""
    refused: int = 0
    refusals: list[EventRefusal] = []
