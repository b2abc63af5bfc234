"""What is asked for: recommendations, or the order of given items."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from recsys.events.schema import Context, Identifier
from recsys.wire.values import (
    MAX_BOOSTED_ITEMS,
    MAX_BOOSTS,
    MAX_EXCLUDED_ITEMS,
    MAX_HISTORY_ITEMS,
    MAX_K,
    MAX_PINS,
    MAX_RANK_ITEMS,
    CategoryName,
    CategoryNames,
    DiversityBy,
    DiversityMethod,
    Factor,
    HalfLifeHours,
    K,
    ObjectiveWeight,
    Position,
    Tags,
)


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which items may be shown. A category the live bundle does not know has no items."""

    categories: CategoryNames = []
    """Only these; empty allows all."""
    exclude_categories: CategoryNames = []
    tags: Tags = []
    """Only items with one of these ``key=value`` attributes; of several keys, with one of each."""
    exclude_tags: Tags = []


class Boost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raises or lowers items by what they are; those of any of the lists are meant."""

    factor: Factor
    """Several boosts of an item multiply; below 1 an item is buried."""
    item_ids: Annotated[list[Identifier], Meta(max_length=MAX_BOOSTED_ITEMS)] = []
    categories: CategoryNames = []
    tags: Tags = []
    """``key=value`` of an item's attributes."""


class Pin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Puts an item at a place, unless it may not be shown."""

    item_id: Identifier
    position: Position
    """From 0. One from ``k`` on is ignored; in a shorter list, the item stands at the end."""


class Freshness(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raises new items: by ``factor`` at birth, by its square root a half life later, and so on."""

    factor: Factor
    half_life_h: HalfLifeHours
    """Hours in which the boost, as a logarithm, halves."""


class RecommendRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class RankRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for the order of given items for a user."""

    user_id: Identifier
    item_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=MAX_RANK_ITEMS)]
    """Distinct; one given twice is answered once."""
    objective_weights: Annotated[dict[str, ObjectiveWeight], Meta(max_length=16)] = {}
    context: Context = {}
    explain: bool = False
    bundle: Identifier | None = None
    """See ``RecommendRequest.bundle``."""
