"""Whether the features are fit to learn from: as declared, and like those the champion learned.

Two questions. At the moment of the newest event, do the values of all entities keep the
expectations that the Feast repository declares as tags (``recsys/features/quality``)? And since the
live bundle stopped learning, have they moved: do values lack that were there, is the distribution
another?

Windowed aggregates are compared as interactions meet them, a millisecond before each, so that the
hour of the day and users who went away do not count as drift: interactions since against those of
an equally long time before. Windows that were still filling then, in a young log, are left out:
they grow, and that is no drift either. Profiles are compared over all entities, at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from recsys.errors import InputError
from recsys.evaluation.report_document import FeatureRow, FeaturesTable
from recsys.features import names
from recsys.features.event_times import with_times
from recsys.features.history import open_rows
from recsys.features.plan import Plan
from recsys.features.quality.check import check
from recsys.features.quality.drift import drift_of
from recsys.features.quality.moments import spelt
from recsys.features.quality.snapshot import values_of
from recsys.features.view import Feature
from recsys.features.view_history import ViewHistory
from training.pipeline.definition import FeatureBounds

_KEYS = frozenset({"user_id", "item_id", "category"})
"""Join keys that an interaction has."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What the bundle learned from that the features are compared with."""

    bundle_id: str
    from_ms: int
    until_ms: int
    """Nothing from here on was learned from."""


class _Columns(NamedTuple):
    """The values of one feature at both times."""

    view: str
    feature: Feature
    before: pl.Series
    since: pl.Series


def check_features(
    log: pl.DataFrame, plan: Plan, bounds: FeatureBounds, learned: Learned | None
) -> FeaturesTable:
    """Compare the features of a log with the bounds; give what was found, for the report.

    Args:
        log: Rows of the event log.
        plan: Feature plan.
        bounds: What is wanted.
        learned: None when nothing is live that learned from other data of this kind.

    Raises:
        InputError: naming what does not hold, with what was found.
    """
    moment_ms = int(with_times(log)["effective_ms"].max())  # type: ignore[arg-type]
    findings = check(plan, values_of(log, _expected(plan), moment_ms), moment_ms)
    # Without the offender: what is told here outlives a user who is forgotten.
    broken = [
        f"{f.view}{':' + f.feature if f.feature else ''} {f.rule}: wanted {f.wanted}, found "
        f"{f.found} ({f.num_violations:,} of {f.num_values:,})"
        for f in findings
        if not f.passed
    ]
    table = FeaturesTable(
        moment_ms=moment_ms, num_rules=len(findings), broken=broken, against=None,
        num_before=0, num_since=0, rows=[],
        note="no other data were learned from before: nothing to compare with",
    )  # fmt: skip
    if learned is not None:
        table = _compared(table, log, plan, bounds, learned)
    wrong = [
        *(broken if bounds.expectations == "refuse" else ()),
        *(text for row in table.rows for text in _moved(row, bounds)),
    ]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise InputError(
            f"the features are not fit to learn from: {'; '.join(wrong[:_SHOWN])}{more}. `recsys "
            f"features check --at {spelt(moment_ms)}` names offenders, `recsys features profile` "
            "draws the values; when they are right, change [feature_check] in the "
            "pipeline's definition, or the tags in the Feast repository"
        )
    return table


def said(table: FeaturesTable) -> str:
    """Give the check in one line."""
    rules = f"{table.num_rules - len(table.broken)} of {table.num_rules} rules hold"
    if table.against is None or table.note:
        return f"{rules}; {table.note}"
    drifted = max((r for r in table.rows if r.drift is not None), key=_drift, default=None)
    most = (
        "" if drifted is None else f", {drifted.view}:{drifted.feature} most, {_drift(drifted):.2f}"
    )
    return (
        f"{rules}; {len(table.rows)} features since {table.against} learned "
        f"({table.num_since:,} interactions){most}"
    )


def _compared(
    table: FeaturesTable, log: pl.DataFrame, plan: Plan, bounds: FeatureBounds, learned: Learned
) -> FeaturesTable:
    acts = _interactions(log)
    end_ms = table.moment_ms
    from_ms = max(learned.from_ms, learned.until_ms - (end_ms - learned.until_ms))
    time = pl.col("effective_ms")
    before = _spread(acts.filter(time.is_between(from_ms, learned.until_ms, closed="left")), bounds)
    since = _spread(acts.filter(time >= learned.until_ms), bounds)
    found = table.model_copy(
        update={"against": learned.bundle_id, "num_before": len(before), "num_since": len(since),
                "note": ""}
    )  # fmt: skip
    if min(len(before), len(since)) < bounds.min_compared:
        return found.model_copy(
            update={
                "note": f"not compared with what {learned.bundle_id} learned from: "
                f"{len(since)} interactions since and {len(before)} before, wanted "
                f"{bounds.min_compared} of each"
            }
        )
    rows = []
    for one in (
        *_aggregates(log, plan, before, since, history_ms=from_ms - int(acts["effective_ms"][0])),
        *_profiles(log, plan, learned.until_ms, end_ms),
    ):
        drift = drift_of(one.feature, one.before, one.since)
        rows.append(
            FeatureRow(
                view=one.view, feature=one.feature.name, drift=_known(drift.bits),
                null_share=_known(drift.null_share_since),
                null_share_before=_known(drift.null_share_before),
            )
        )  # fmt: skip
    rows.sort(key=lambda row: (-_drift(row), row.view, row.feature))
    return found.model_copy(update={"rows": rows})


def _interactions(log: pl.DataFrame) -> pl.DataFrame:
    """Give who did something with what of which category, in order of time."""
    items = log.filter(pl.col("kind") == "item").sort("event_time_ms")
    category = items.unique("item_id", keep="last").select("item_id", "category")
    acts = log.filter(pl.col("kind") == "interaction").drop("category", strict=False)
    acts = with_times(acts).drop_nulls(["user_id", "item_id"])
    acts = acts.select("user_id", "item_id", "effective_ms").join(
        category, on="item_id", how="left", maintain_order="left"
    )
    return acts.with_columns(pl.col("category").fill_null("")).sort(
        "effective_ms", maintain_order=True
    )


def _spread(acts: pl.DataFrame, bounds: FeatureBounds) -> pl.DataFrame:
    """Give as many as are to be compared, evenly spread."""
    if len(acts) <= bounds.num_compared:
        return acts
    return acts[np.linspace(0, len(acts) - 1, bounds.num_compared).round().astype(np.int64)]


def _aggregates(
    log: pl.DataFrame, plan: Plan, before: pl.DataFrame, since: pl.DataFrame, *, history_ms: int
) -> Iterator[_Columns]:
    """Give windowed features as interactions met them, of windows no longer than the history."""
    rows = open_rows(log, plan)
    acts = pl.concat([before, since])
    moments = acts["effective_ms"].to_numpy() - 1
    for view in plan.views:
        if not view.scalar_aggregates or not set(view.join_keys) <= _KEYS:
            continue
        keys = {key: acts[key].to_list() for key in view.join_keys}
        found = ViewHistory(rows, view).at(keys, moments)
        features = {feature.name: feature for feature in view.features}
        for number, aggregate in enumerate(view.scalar_aggregates):
            if aggregate.window_ms > history_ms:
                continue
            column = pl.Series(np.ascontiguousarray(found[:, number]))
            yield _Columns(
                view.name, features[aggregate.name], column[: len(before)], column[len(before) :]
            )


def _profiles(log: pl.DataFrame, plan: Plan, before_ms: int, since_ms: int) -> Iterator[_Columns]:
    """Give what is said of users and items at two moments."""
    views = tuple(v for v in plan.views if v.name in (names.USER_PROFILE, names.ITEM_PROFILE))
    some = msgspec.structs.replace(plan, views=views)
    before = {one.view.name: one for one in values_of(log, some, before_ms)}
    for one in values_of(log, some, since_ms):
        for feature in one.view.features:
            yield _Columns(
                one.view.name, feature, before[one.view.name].values[feature.name],
                one.values[feature.name],
            )  # fmt: skip


def _expected(plan: Plan) -> Plan:
    """Give the views that something is expected of: the others need not be computed."""
    wanted = {expectation.view for expectation in plan.expectations}
    if names.USER_HISTORY in wanted:  # whose values are made by readers of other views
        return plan
    views = tuple(view for view in plan.views if view.name in wanted)
    return msgspec.structs.replace(plan, views=views)


def _moved(row: FeatureRow, bounds: FeatureBounds) -> list[str]:
    """Say in what a feature has moved further than it may."""
    found = []
    if bounds.max_drift is not None and _drift(row) > bounds.max_drift:
        found.append(
            f"{row.view}:{row.feature} has another distribution than the live bundle learned "
            f"(divergence {_drift(row):.2f}, wanted at most {bounds.max_drift:g})"
        )
    if (
        bounds.max_null_rise is not None
        and row.null_share is not None
        and row.null_share_before is not None
        and row.null_share - row.null_share_before > bounds.max_null_rise
    ):
        found.append(
            f"{row.view}:{row.feature} has no value for {row.null_share:.0%}, "
            f"{row.null_share_before:.0%} when the live bundle learned (wanted at most "
            f"{bounds.max_null_rise:.0%} more)"
        )
    return found


def _drift(row: FeatureRow) -> float:
    return row.drift or 0.0


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
