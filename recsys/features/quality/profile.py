"""All features of one or two sources described: what the profile page shows.

``S`` sources: the online store, the event log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import polars as pl

from recsys.features.plan import Plan
from recsys.features.quality.check import Finding, check
from recsys.features.quality.expectations import Expectation
from recsys.features.quality.online_sample import dtype_of
from recsys.features.quality.snapshot import ViewValues
from recsys.features.quality.statistics import FeatureProfile, Plot, plot, profile_feature
from recsys.features.view import View


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where values are from."""

    name: str
    views: Sequence[ViewValues]
    is_sample: bool = False
    """Whether there are more entities than these: age and cardinality of all cannot be judged."""


@dataclass(frozen=True, kw_only=True)
class ViewProfile:
    """One view."""

    view: View
    num_entities: list[int]
    """``[S]`` past the TTL or not."""
    num_expired: list[int]
    """``[S]`` past the TTL: left out of all that follows."""
    newest_ms: list[int | None]
    """``[S]`` time of the newest event."""
    ages: Plot
    """Time since the newest event of each entity, ms."""
    features: list[FeatureProfile]
    findings: list[list[Finding]]
    """``[S]`` what came of the rules."""

    @property
    def num_failed(self) -> int:
        """Rules that do not hold, of all sources."""
        return sum(not finding.passed for found in self.findings for finding in found)


def profile(
    plan: Plan, sources: Sequence[Source], moment_ms: int, *, views: Sequence[View]
) -> list[ViewProfile]:
    """Describe ``views`` as each source has them at a moment, by the name of the view."""
    return [_view(plan, v, sources, moment_ms) for v in sorted(views, key=lambda v: v.name)]


def _view(plan: Plan, view: View, sources: Sequence[Source], moment_ms: int) -> ViewProfile:
    all_values = [_values(source, view) for source in sources]
    present = [_unexpired(values, moment_ms) for values in all_values]
    ages = [moment_ms - values.newest_ms for values in all_values]
    of_all = _expecting(plan, [e for e in plan.expectations if e.view == view.name])
    of_values = _expecting(plan, [e for e in of_all.expectations if e.feature])
    of_age = _expecting(plan, [e for e in of_all.expectations if not e.feature])
    findings = []
    for source, everyone, kept in zip(sources, all_values, present, strict=True):
        found = check(of_values, [kept], moment_ms) + check(of_age, [everyone], moment_ms)
        whole = ("max_age", "max_cardinality") if source.is_sample else ()
        findings.append([finding for finding in found if finding.rule not in whole])
    features = [
        profile_feature(feature, [values.values[feature.name] for values in present])
        for feature in view.features
    ]
    return ViewProfile(
        view=view,
        num_entities=[len(values) for values in all_values],
        num_expired=[
            len(values) - len(kept) for values, kept in zip(all_values, present, strict=True)
        ],
        newest_ms=[values.newest_event_ms for values in all_values],
        ages=plot("age of the newest event", "age", ages),
        features=features,
        findings=findings,
    )


def _values(source: Source, view: View) -> ViewValues:
    for values in source.views:
        if values.view.name == view.name:
            return values
    return ViewValues(
        view=view,
        entities=pl.DataFrame(schema=dict.fromkeys(view.join_keys, pl.String())),
        values={f.name: pl.Series(f.name, [], dtype=dtype_of(f.type)) for f in view.features},
        newest_ms=pl.Series([], dtype=pl.Int64),
    )


def _expecting(plan: Plan, expectations: Sequence[Expectation]) -> Plan:
    return msgspec.structs.replace(plan, expectations=tuple(expectations))


def _unexpired(values: ViewValues, moment_ms: int) -> ViewValues:
    if not values.view.ttl_ms or not len(values):
        return values
    kept = moment_ms - values.newest_ms <= values.view.ttl_ms
    return replace(
        values,
        entities=values.entities.filter(kept),
        values={name: column.filter(kept) for name, column in values.values.items()},
        newest_ms=values.newest_ms.filter(kept),
    )
