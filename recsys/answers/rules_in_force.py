"""The operator's rules in rows of the bundles in service: bound once, not for each request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from recsys.bundle.served import ServedBundle
from recsys.ranking.operator_rules import OperatorRules
from recsys.ranking.request_rules import BoundRules, bind
from recsys.telemetry import RULES_UNKNOWN_NAMES

logger = logging.getLogger(__name__)

_MAX_BOUND = 4
"""Bundles whose rows the operator's rules are kept in: the live one, and those beside it."""
_SHOWN_UNKNOWN = 5


class RulesInForce:
    """Gives the rules for a bundle, and binds them anew when they changed."""

    def __init__(self, operator: Callable[[], OperatorRules]) -> None:
        """``operator`` gives the rules in force."""
        self._operator = operator
        self._bound: dict[str, BoundRules] = {}

    def of(self, bundle: ServedBundle) -> BoundRules:
        """Give the operator's rules in rows of ``bundle``; names it lacks are counted and said."""
        operator = self._operator()
        bound = self._bound.get(bundle.bundle_id)
        if bound is not None and bound.operator is operator:
            return bound
        bound = bind(operator, bundle)
        RULES_UNKNOWN_NAMES.set(len(bound.unknown))
        if bound.unknown:
            logger.warning(
                "rules %s name %d things bundle %s does not have: %s",
                operator.version,
                len(bound.unknown),
                bundle.bundle_id,
                "; ".join(bound.unknown[:_SHOWN_UNKNOWN]),
            )
        self._bound.pop(bundle.bundle_id, None)
        while len(self._bound) >= _MAX_BOUND:
            del self._bound[next(iter(self._bound))]
        self._bound[bundle.bundle_id] = bound
        return bound
