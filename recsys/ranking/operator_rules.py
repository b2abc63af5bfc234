"""What the operator of a shop says about lists: merchandising rules and the policy of exploration.

One TOML file, read by every API process, apart from bundles: a rule names items and categories by
identity and holds whichever bundle is live.

::

    [exploration]
    policy = "epsilon"
    epsilon = 0.05

    [[rules]]
    name = "tea-week"
    action = "boost"                 # or bury, freshness, pin, cap, minimum
    categories = ["tea"]
    factor = 2.0
    starts = 2026-03-02T00:00:00+01:00
    ends = 2026-03-09T00:00:00+01:00
    users = ["country=FR"]
    context = {page = "home"}

``docs/reranking.md`` says what each does and which goes before which.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from recsys.errors import ConfigurationError
from recsys.events.schema import Identifier
from recsys.features.names import token_hash
from recsys.ranking.exploration import Policy
from recsys.wire import MAX_K, CategoryName, Factor, HalfLifeHours, Position

MAX_RULES = 1_000
REQUEST_RULE = "request"
"""What the rules of a request are called beside the operator's."""

_Moment = Annotated[datetime, Meta(tz=True)]
_Raise = Annotated[float, Meta(ge=1.0, le=1e3)]


class _Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True,
            tag_field="action"):  # fmt: skip
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Its own in the file; explanations and counters say it."""
    starts: _Moment | None = None
    """Not before; ``None``: always was."""
    ends: _Moment | None = None
    """Not from then on; ``None``: always will be."""
    users: list[Identifier] = []
    """Tokens of the user's profile (``country=FR``), all of which are needed."""
    context: dict[str, str] = {}
    """What the request's context must say, all of it."""

    def holds(
        self, *, now_ms: int, user_tokens: frozenset[int], context: Mapping[str, str]
    ) -> bool:
        """Say whether the rule applies to a request.

        Args:
            now_ms: The moment of the request.
            user_tokens: Hashes of the user's profile tokens; none where they could not be read.
            context: Of the request.
        """
        if self.starts is not None and now_ms < self.starts.timestamp() * 1e3:
            return False
        if self.ends is not None and now_ms >= self.ends.timestamp() * 1e3:
            return False
        if self.context and any(context.get(key) != value for key, value in self.context.items()):
            return False
        return all(token_hash(token) in user_tokens for token in self.users)


class _Selecting(_Rule, frozen=True, kw_only=True):
    item_ids: list[Identifier] = []
    categories: list[CategoryName] = []
    tags: list[Identifier] = []


class BoostRule(_Selecting, frozen=True, kw_only=True, tag="boost"):
    """Multiplies the odds of items of any of the lists."""

    factor: _Raise


class BuryRule(_Selecting, frozen=True, kw_only=True, tag="bury"):
    """Divides the odds of items of any of the lists."""

    factor: _Raise


class FreshnessRule(_Rule, frozen=True, kw_only=True, tag="freshness"):
    """See ``wire.Freshness``. Of several that apply, the first counts."""

    factor: Factor
    half_life_h: HalfLifeHours


class PinRule(_Rule, frozen=True, kw_only=True, tag="pin"):
    """See ``wire.Pin``."""

    item_id: Identifier
    position: Position


class CapRule(_Rule, frozen=True, kw_only=True, tag="cap"):
    """At most so many items of each of the categories; none named: of every category."""

    categories: list[CategoryName] = []
    most: Annotated[int, Meta(ge=0, le=MAX_K)]


class MinimumRule(_Rule, frozen=True, kw_only=True, tag="minimum"):
    """At least so many items of each of the categories."""

    categories: Annotated[list[CategoryName], Meta(min_length=1)]
    least: Annotated[int, Meta(ge=1, le=MAX_K)]


Rule: TypeAlias = BoostRule | BuryRule | FreshnessRule | PinRule | CapRule | MinimumRule


class OperatorRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file. Absent or empty: no rules, the best item at every place."""

    exploration: Policy | None = None
    rules: Annotated[list[Rule], Meta(max_length=MAX_RULES)] = []
    """Earlier ones go before later ones where only one can have its way."""
    version: str = ""
    """Hash of the file's bytes, not in the file."""


NO_RULES = OperatorRules()


def read_operator_rules(data: bytes, *, source: str) -> OperatorRules:
    """Give the rules in the bytes of a file; ``source`` names it in errors.

    Raises:
        ConfigurationError: with what is wrong, and where.
    """
    try:
        rules = msgspec.toml.decode(data, type=OperatorRules)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigurationError(f"{source}: wanted rules as TOML, found: {error}") from error
    if rules.version:
        raise ConfigurationError(
            f"{source}: wanted no `version`, which is the file's hash; drop it"
        )
    names: set[str] = set()
    for number, rule in enumerate(rules.rules):
        where = f"{source}: rules[{number}] {rule.name!r}"
        if rule.name in names or rule.name == REQUEST_RULE:
            raise ConfigurationError(f"{where}: wanted a name of its own; rename it")
        names.add(rule.name)
        if isinstance(rule, _Selecting) and not (rule.item_ids or rule.categories or rule.tags):
            raise ConfigurationError(f"{where}: wanted item_ids, categories or tags, found none")
        if rule.starts is not None and rule.ends is not None and rule.starts >= rule.ends:
            raise ConfigurationError(
                f"{where}: wanted `starts` before `ends`, found {rule.starts} and {rule.ends}"
            )
    version = sha256(data).hexdigest()[:12] if data.strip() else ""
    return msgspec.structs.replace(rules, version=version)
