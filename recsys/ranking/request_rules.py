"""Rules of one request against one bundle: which apply, and what they do to its candidates.

The operator's rules are put into rows of the live bundle once (``bind``); a request then costs a
look-up a rule. An item or category the bundle does not know is counted and said, and changes
nothing: rules outlive bundles.

Axes: ``N`` items (row 0 is padding), ``C`` candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.clock import HOUR_MS
from recsys.data.vocabulary import PADDING_INDEX
from recsys.errors import InputError
from recsys.features.batch import Bools, Int32s, Int64s
from recsys.ranking.category_limits import NO_BOUNDS, CategoryBounds
from recsys.ranking.operator_rules import (
    REQUEST_RULE,
    BoostRule,
    BuryRule,
    CapRule,
    FreshnessRule,
    MinimumRule,
    OperatorRules,
    PinRule,
    Rule,
)
from recsys.ranking.similarity import Float64s
from recsys.wire import Freshness, RecommendRequest, RuleEffect


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Items meant by a rule, as rows of one bundle."""

    rows: Int32s
    """Sorted."""
    categories: Int32s
    """Columns of the vocabulary."""

    def of(self, item_index: Int32s, category_index: Int32s) -> Bools:
        """Say which of the candidates ``[C]``, of categories ``[C]``, are meant."""
        meant = np.zeros(len(item_index), dtype=bool)
        if len(self.rows):
            place = np.searchsorted(self.rows, item_index)
            meant |= self.rows[np.minimum(place, len(self.rows) - 1)] == item_index
        for category in self.categories.tolist():
            meant |= category_index == category
        return meant


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """A boost or burial in rows of one bundle."""

    rule: str
    meant: Selection
    log_factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """An item at a place."""

    rule: str
    row: int
    position: int


@dataclass(frozen=True, kw_only=True)
class Applying:
    """What the rules of one request, the operator's and its own, say together."""

    factors: Sequence[Factor] = ()
    freshness: tuple[str, Freshness] | None = None
    pins: Sequence[Pinned] = ()
    """By precedence: an item once, and the first at a place has it."""
    bounds: CategoryBounds = NO_BOUNDS

    def __bool__(self) -> bool:
        return bool(self.factors or self.freshness or self.pins or self.bounds)


NOTHING_APPLIES = Applying()


@dataclass(frozen=True, kw_only=True)
class BoundRules:
    """The operator's rules in rows of one bundle."""

    operator: OperatorRules
    bundle_id: str
    selections: Mapping[str, Selection] = field(default_factory=dict)
    """By name of a boosting or burying rule."""
    unknown: tuple[str, ...] = ()
    """Items, categories and tags that no item of the bundle has, as ``rule: item "x"``."""


def bind(operator: OperatorRules, bundle: ServedBundle) -> BoundRules:
    """Put the operator's rules into rows of ``bundle``."""
    unknown: list[str] = []
    selections: dict[str, Selection] = {}
    for rule in operator.rules:
        missing: list[str] = []
        if isinstance(rule, BoostRule | BuryRule):
            selections[rule.name] = select(
                bundle, rule.item_ids, rule.categories, rule.tags, missing
            )
        elif isinstance(rule, PinRule):
            select(bundle, [rule.item_id], [], [], missing)
        elif isinstance(rule, CapRule | MinimumRule):
            select(bundle, [], rule.categories, [], missing)
        unknown += [f"{rule.name}: {what}" for what in missing]
    return BoundRules(
        operator=operator,
        bundle_id=bundle.bundle_id,
        selections=selections,
        unknown=tuple(unknown),
    )


def select(
    bundle: ServedBundle,
    item_ids: Iterable[str],
    categories: Iterable[str],
    tags: Iterable[str],
    unknown: list[str],
) -> Selection:
    """Give the items meant by any of the lists; names the bundle lacks go to ``unknown``."""
    vocabulary = bundle.vocabulary
    rows: list[Int32s] = []
    single: list[int] = []
    for item_id in item_ids:
        row = vocabulary.index_of.get(item_id, PADDING_INDEX)
        if row == PADDING_INDEX:
            unknown.append(f"item {item_id!r}")
        else:
            single.append(row)
    rows.append(np.array(single, dtype=np.int32))
    for tag in tags:
        tagged = bundle.tags.rows(tag)
        if len(tagged) == 0:
            unknown.append(f"tag {tag!r}")
        rows.append(tagged)
    columns: list[int] = []
    for category in categories:
        column = vocabulary.category_index_of.get(category)
        if column is None:
            unknown.append(f"category {category!r}")
        else:
            columns.append(column)
    return Selection(
        rows=np.unique(np.concatenate(rows)), categories=np.array(columns, dtype=np.int32)
    )


def check_rules(request: RecommendRequest) -> None:
    """Raise InputError when what a request says of its own list cannot be meant."""
    for number, boost in enumerate(request.boosts):
        if not (boost.item_ids or boost.categories or boost.tags):
            field_ = f"boosts[{number}]"
            raise InputError(
                f"{field_}: wanted item_ids, categories or tags, found none", field=field_
            )
    for category, least in request.least_by_category.items():
        most = request.most_by_category.get(category, request.max_per_category or request.k)
        if least > min(most, request.k):
            raise InputError(
                f"least_by_category: wanted at most {min(most, request.k)} of {category!r}, which "
                f"k and the caps leave room for, found {least}",
                field=f"least_by_category.{category}",
            )
    if (least := sum(request.least_by_category.values())) > request.k:
        raise InputError(
            f"least_by_category: wanted at most k = {request.k} items in all, found {least}",
            field="least_by_category",
        )


def applying(
    request: RecommendRequest,
    bundle: ServedBundle,
    bound: BoundRules,
    *,
    now_ms: int,
    user_tokens: frozenset[int],
) -> Applying:
    """Give what holds for one request.

    Factors multiply. Of freshness, pins at one place and pins of one item the request's goes before
    the operator's, and an earlier rule before a later one. Of caps the tightest holds, of minimums
    the largest, and a cap goes before a minimum.
    """
    if not bound.operator.rules and not _asks_for_rules(request):
        return NOTHING_APPLIES
    rules: list[Rule] = [
        rule
        for rule in bound.operator.rules
        if rule.holds(now_ms=now_ms, user_tokens=user_tokens, context=request.context)
    ]
    ignored: list[str] = []
    factors = [
        Factor(
            rule=REQUEST_RULE,
            meant=select(bundle, boost.item_ids, boost.categories, boost.tags, ignored),
            log_factor=math.log(boost.factor),
        )
        for boost in request.boosts
    ]
    freshness = (REQUEST_RULE, request.freshness) if request.freshness is not None else None
    index_of, column_of = bundle.vocabulary.index_of, bundle.vocabulary.category_index_of
    pins = [(REQUEST_RULE, pin.item_id, pin.position) for pin in request.pins]
    most_of_each = request.max_per_category
    most = {column_of[c]: n for c, n in request.most_by_category.items() if c in column_of}
    least = {column_of[c]: n for c, n in request.least_by_category.items() if c in column_of}
    for rule in rules:
        match rule:
            case BoostRule() | BuryRule():
                sign = 1.0 if isinstance(rule, BoostRule) else -1.0
                factors.append(
                    Factor(
                        rule=rule.name,
                        meant=bound.selections[rule.name],
                        log_factor=sign * math.log(rule.factor),
                    )
                )
            case FreshnessRule():
                if freshness is None:
                    freshness = (
                        rule.name, Freshness(factor=rule.factor, half_life_h=rule.half_life_h)
                    )  # fmt: skip
            case PinRule():
                pins.append((rule.name, rule.item_id, rule.position))
            case CapRule(categories=[]):
                most_of_each = min(
                    most_of_each if most_of_each is not None else rule.most, rule.most
                )
            case CapRule():
                for column in (column_of[c] for c in rule.categories if c in column_of):
                    most[column] = min(most.get(column, rule.most), rule.most)
            case MinimumRule():
                for column in (column_of[c] for c in rule.categories if c in column_of):
                    least[column] = max(least.get(column, 0), rule.least)
    return Applying(
        factors=factors,
        freshness=freshness,
        pins=_settled(pins, index_of, k=request.k),
        bounds=CategoryBounds(most_of_each=most_of_each, most=most, least=least),
    )


def _asks_for_rules(request: RecommendRequest) -> bool:
    return bool(
        request.boosts
        or request.freshness is not None
        or request.pins
        or request.max_per_category is not None
        or request.most_by_category
        or request.least_by_category
    )


def _settled(
    pins: Iterable[tuple[str, str, int]], index_of: Mapping[str, int], *, k: int
) -> tuple[Pinned, ...]:
    """Give each known item once and each place below ``k`` once; the first comer has it."""
    by_position: dict[int, Pinned] = {}
    rows: set[int] = set()
    for rule, item_id, position in pins:
        row = index_of.get(item_id, PADDING_INDEX)
        if row == PADDING_INDEX or row in rows or position >= k or position in by_position:
            continue
        rows.add(row)
        by_position[position] = Pinned(rule=rule, row=row, position=position)
    return tuple(by_position[position] for position in sorted(by_position))


def log_factors(
    applying: Applying,
    item_index: Int32s,
    category_index: Int32s,
    born_ms: Int64s,
    *,
    now_ms: int,
) -> Float64s:
    """Give ``[C]``: what boosts, burials and freshness add to the log-odds of candidates."""
    total = np.zeros(len(item_index))
    for _, meant, added in each_factor(
        applying, item_index, category_index, born_ms, now_ms=now_ms
    ):
        total[meant] += added[meant]
    return total


def each_factor(
    applying: Applying,
    item_index: Int32s,
    category_index: Int32s,
    born_ms: Int64s,
    *,
    now_ms: int,
) -> Iterable[tuple[RuleEffect, Bools, Float64s]]:
    """Give rule by rule which candidates it touches, and what it adds to their log-odds ``[C]``.

    An item born later than now counts as born now.
    """
    for factor in applying.factors:
        meant = factor.meant.of(item_index, category_index)
        added = np.full(len(item_index), factor.log_factor)
        yield RuleEffect(rule=factor.rule, action="boost"), meant, added
    if applying.freshness is not None:
        rule, freshness = applying.freshness
        age_h = np.maximum(now_ms - born_ms, 0) / HOUR_MS
        added = math.log(freshness.factor) * np.exp2(-age_h / freshness.half_life_h)
        yield RuleEffect(rule=rule, action="freshness"), np.abs(added) > 1e-4, added
