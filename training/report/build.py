"""From what was judged to the document: numbers, intervals, gaps, and the comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from recsys.bundle.manifest import Manifest
from recsys.evaluation.bootstrap import Interval
from recsys.evaluation.exposure import exposure_of_items, group_shares
from recsys.evaluation.exposure_per_due import exposure_per_due
from recsys.evaluation.group_gap import group_gap
from recsys.evaluation.hits import num_relevant
from recsys.evaluation.report import intervals, judge_lists, user_values
from recsys.evaluation.report_document import (
    Against,
    Bin,
    Comparison,
    CurvePoint,
    Exposure,
    ExposureGroup,
    Figure,
    Gap,
    ProbabilityTable,
    RecommenderRow,
    Report,
    Segment,
    SegmentRow,
    ViewTable,
)
from recsys.features.batch import Int32s
from training.evaluate import SERVED, Judged, Verdict
from training.report.probabilities import Probabilities
from training.report.protocol import View, rows_of
from training.report.segments import Division, SegmentQuality, divisions, judge_segments

GAP_METRIC = "ndcg"
Other = tuple[Against, Mapping[View, Int32s] | None]
"""The other bundle and its lists for the same users; no lists when it is refused."""


def build_report(
    manifest: Manifest,
    verdict: Verdict,
    log: pl.DataFrame,
    *,
    other: Other | None,
    curve: Sequence[tuple[str, int, float]] = (),
    notes: Sequence[str] = (),
) -> Report:
    """Put the report of a bundle together. The same inputs give the same document."""
    judged = verdict.judged
    lineage = manifest.lineage
    against, theirs = (None, None) if other is None else other
    notes = list(notes)
    segments: list[Segment] = []
    exposure: list[Exposure] = []
    if judged is None:
        notes.append("nobody who acted before the test acted in it: there is nothing to judge")
    else:
        wanted = divisions(judged.held_out, judged.catalogue, log)
        ours = {view: lists[SERVED] for view, lists in judged.lists.items()}
        found = judge_segments(
            judged.held_out, judged.questions, ours, theirs, wanted, k=judged.k, seed=judged.seed
        )
        segments = [_segment(one) for one in found]
        exposure = [
            _exposure(judged, view, division)
            for view in judged.lists
            for division in wanted
            if division.of == "items" and not division.keeps_unseen
        ]
        if against is not None and theirs is not None:
            views = [_comparison(judged, view, theirs[view]) for view in judged.lists]
            against = against.model_copy(update={"views": views})
    held_out = judged.held_out if judged else None
    return Report(
        bundle_id=manifest.bundle_id,
        recipe=manifest.recipe,
        dataset=lineage.dataset,
        seed=lineage.seed,
        code_version=lineage.code_version,
        created_ms=manifest.created_ms,
        data_from_ms=lineage.data_from_ms,
        test_from_ms=held_out.test_from_ms if held_out else lineage.data_until_ms,
        test_until_ms=held_out.end_ms if held_out else lineage.data_until_ms,
        k=judged.k if judged else 0,
        num_items=manifest.num_items,
        num_test_users=int(held_out.is_known.sum()) if held_out else 0,
        num_new_users=int((~held_out.is_known).sum()) if held_out else 0,
        num_users_left_out=held_out.num_left_out if held_out else 0,
        views=[_view(verdict, view) for view in verdict.tables],
        segments=segments,
        exposure=exposure,
        probabilities=[_probability(p) for p in judged.probabilities] if judged else [],
        against=against,
        curve=[CurvePoint(phase=p, epoch=e, loss=loss) for p, e, loss in curve],
        notes=notes,
    )


def _view(verdict: Verdict, view: View) -> ViewTable:
    numbers = verdict.metrics["views"][view]
    return ViewTable(
        view=view,
        rows=[
            RecommenderRow(
                name=name,
                num_users=quality.num_users,
                figures=_figures(quality.by_user),
                lists={key: _known(value) for key, value in quality.of_lists().items()},
                keeping_unseen={
                    key.partition("@")[0]: value
                    for key, value in numbers[name].items()
                    if key.endswith("_keeping_unseen")
                },
            )
            for name, quality in verdict.tables[view].items()
        ],
    )


def _segment(found: SegmentQuality) -> Segment:
    gap = group_gap(
        {g.name: g.by_metric[GAP_METRIC].mean for g in found.groups if g.is_enough}
    )  # fmt: skip
    return Segment(
        view=found.view,
        of=found.division.of,
        by=found.division.grouping.by,
        about=found.division.about,
        rows=[
            SegmentRow(
                group=g.name, num_users=g.num_users, is_enough=g.is_enough,
                figures=_figures(g.by_metric), difference=_figures(g.difference),
            )
            for g in found.groups
        ],
        gap=None if gap is None else Gap(
            metric=GAP_METRIC, best=gap.best, worst=gap.worst, difference=gap.difference,
            ratio=_known(gap.ratio),
        ),
    )  # fmt: skip


def _exposure(judged: Judged, view: View, division: Division) -> Exposure:
    held_out, grouping = judged.held_out, division.grouping
    known = np.flatnonzero(held_out.is_known)
    num_items, num_groups = held_out.vocabulary.num_items, len(grouping.names)
    # Whoever could be shown: not what came with the test, nor what was withdrawn before it.
    on_offer = np.concatenate([[False], judged.catalogue.was_available])
    on_offer[held_out.later] = False
    offered = on_offer.astype(np.float64)
    group = np.where(on_offer, grouping.group, -1)
    shown = exposure_of_items(judged.lists[view][SERVED][known], num_items=num_items, k=judged.k)
    relevant = rows_of(judged.questions[view].relevant, known)
    merit = np.bincount(relevant.values, minlength=num_items + 1).astype(np.float64)
    per_item = exposure_per_due(shown, offered, group, names=grouping.names)
    per_relevant = exposure_per_due(shown, merit, group, names=grouping.names)
    shares = [group_shares(a, group, num_groups=num_groups) for a in (offered, merit, shown)]
    return Exposure(
        view=view,
        by=grouping.by,
        about=division.about,
        groups=[
            ExposureGroup(
                group=name, num_items=int((group == g).sum()),
                share_of_items=_known(shares[0][g]), share_of_relevant=_known(shares[1][g]),
                share_of_exposure=_known(shares[2][g]), per_item=_known(per_item[name]),
                per_relevant=_known(per_relevant[name]),
            )
            for g, name in enumerate(grouping.names)
        ],
        gap_per_item=_exposure_gap("exposure per item", per_item),
        gap_per_relevant=_exposure_gap("exposure per relevant item", per_relevant),
    )  # fmt: skip


def _exposure_gap(metric: str, value: Mapping[str, float]) -> Gap | None:
    gap = group_gap(value)
    if gap is None:
        return None
    return Gap(
        metric=metric, best=gap.best, worst=gap.worst, difference=gap.difference,
        ratio=_known(gap.ratio),
    )  # fmt: skip


def _comparison(judged: Judged, view: View, theirs: Int32s) -> Comparison:
    question, held_out = judged.questions[view], judged.held_out
    rows = np.flatnonzero(held_out.is_known & (num_relevant(question.relevant) > 0))
    relevant = rows_of(question.relevant, rows)
    lists = {"ours": judged.lists[view][SERVED][rows], "theirs": theirs[rows]}
    values = {name: user_values(ranked, relevant, k=judged.k) for name, ranked in lists.items()}
    table = {f"{name} {m}": v for name, of in values.items() for m, v in of.items()}
    table |= {f"difference {m}": v - values["theirs"][m] for m, v in values["ours"].items()}
    found = intervals(table, np.random.default_rng(judged.seed))
    quality = {
        name: judge_lists(
            ranked, relevant, k=judged.k, items=judged.items,
            rng=np.random.default_rng(judged.seed), profiles=rows_of(held_out.had, rows),
        ).of_lists()
        for name, ranked in lists.items()
    }  # fmt: skip

    def of(part: str) -> dict[str, Figure]:
        kept = {k.removeprefix(f"{part} "): v for k, v in found.items() if k.startswith(f"{part} ")}
        return _figures(kept)

    return Comparison(
        view=view, num_users=len(rows), ours=of("ours"), theirs=of("theirs"),
        difference=of("difference"),
        our_lists={key: _known(v) for key, v in quality["ours"].items()},
        their_lists={key: _known(v) for key, v in quality["theirs"].items()},
    )  # fmt: skip


def _probability(found: Probabilities) -> ProbabilityTable:
    curve = found.curve
    return ProbabilityTable(
        objective=found.objective,
        rows=found.rows,
        figures={name: _known(value) for name, value in found.figures.items()},
        bins=[
            Bin(predicted=float(p), observed=float(o), deviation=float(d), num_rows=int(n))
            for p, o, d, n in zip(
                curve.predicted, curve.observed, curve.deviation, curve.num_rows, strict=True
            )
        ],
    )


def _figures(found: Mapping[str, Interval]) -> dict[str, Figure]:
    return {
        name: Figure(mean=round(i.mean, 6), low=round(i.low, 6), high=round(i.high, 6))
        for name, i in found.items()
        if not math.isnan(i.mean)
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
