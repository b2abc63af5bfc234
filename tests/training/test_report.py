"""A run's report: beside the bundles, compared with the live one or saying why not, and the same
again when the bundle is judged from the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.errors import BundleError, InputError
from recsys.evaluation.report_document import Report
from tests.bundle.test_bundle import small_plan
from training.bundle_run import Made, make_bundle
from training.debug_bundle import DEBUG_END_MS, OBJECTIVES, made_up_log
from training.loop import NoCheckpoints, World
from training.progress import Progress
from training.recipes import debug
from training.report.attributes import groupings_of
from training.report.judge import judge_bundle
from training.report.other import LIVE, ask_other
from training.report.write import read_report
from training.source import Source

QUIET = Progress(quiet=True)
VIEWS = ("new_items_only", "repeats_allowed")


def source(log: pl.DataFrame, *, test_from_ms: int | None = None) -> Source:
    return Source(
        log=log, plan=small_plan(), dataset="made_up", objectives=OBJECTIVES, views=VIEWS, k=10,
        relevant_type="purchase", test_from_ms=test_from_ms,
    )  # fmt: skip


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return made_up_log(num_users=150)


@pytest.fixture(scope="module")
def runs(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """A first run, which goes live, and a second."""
    folder = tmp_path_factory.mktemp("store")
    made = []
    for seed in (7, 8):
        made.append(
            make_bundle(
                source(log), replace(debug(), seed=seed), folder, world=World(),
                checkpoints=NoCheckpoints(), progress=QUIET, now_ms=DEBUG_END_MS,
            )
        )  # fmt: skip
        BundleStore(folder).activate(made[0].manifest.bundle_id)
    return made[0], made[1]


@pytest.fixture(scope="module")
def report(runs: tuple[Made, Made]) -> Report:
    return read_report(runs[1].folder.parent, runs[1].manifest.bundle_id)


def test_the_first_report_has_nobody_to_compare_with_and_the_second_has(runs, report) -> None:
    first = read_report(runs[0].folder.parent, runs[0].manifest.bundle_id)
    assert first.against is None
    assert report.against is not None and report.against.refused == ""
    assert report.against.bundle_id == first.bundle_id
    for view, compared in zip(VIEWS, report.against.views, strict=True):
        served = runs[0].verdict.tables[view]["served"].by_user
        assert compared.theirs["ndcg"].mean == pytest.approx(served["ndcg"].mean, abs=1e-6)
        apart = compared.ours["ndcg"].mean - compared.theirs["ndcg"].mean
        assert compared.difference["ndcg"].mean == pytest.approx(apart, abs=2e-6)


def test_what_a_bundle_is_compared_with_is_no_part_of_it(runs) -> None:
    folder = runs[1].folder
    assert (folder.parent / "reports" / folder.name / "report.html").is_file()
    assert not any("report" in name for name in read_manifest(folder).files)


def test_segments_add_up_and_small_ones_are_not_judged(runs, report) -> None:
    by = {(s.view, s.of, s.by): s for s in report.segments}
    countries = by["new_items_only", "users", "country"]
    assert sum(row.num_users for row in countries.rows) == report.views[0].rows[0].num_users
    for segment in report.segments:
        for row in segment.rows:
            assert row.is_enough == (row.num_users >= 30) == bool(row.figures)
    assert ("repeats_allowed", "items", "popularity") in by
    metrics = runs[1].manifest.metrics["segments"]["new_items_only"]["users: country"]
    named = {row.group: row for row in countries.rows}
    for group, row in metrics.items():
        if "ndcg@10" in row:
            assert row["ndcg@10"] == pytest.approx(named[group].figures["ndcg"].mean, abs=1e-5)


def test_judged_from_the_store_it_is_as_good_as_in_its_own_run(runs, log) -> None:
    folder, manifest = runs[0].folder, runs[0].manifest
    found = judge_bundle(
        folder, source(log, test_from_ms=manifest.lineage.data_until_ms), progress=QUIET
    )
    assert found.metrics["views"] == manifest.metrics["views"]
    with pytest.raises(InputError, match="learned from the data"):
        judge_bundle(
            folder, source(log, test_from_ms=manifest.lineage.data_until_ms - 1),
            progress=QUIET,
        )  # fmt: skip
    with pytest.raises(InputError, match="found none"):
        judge_bundle(folder, source(log, test_from_ms=2 * DEBUG_END_MS), progress=QUIET)


def test_a_comparison_that_would_mislead_is_refused(runs, log) -> None:
    store = BundleStore(runs[0].folder.parent)
    ours, judged = runs[0].manifest, runs[0].verdict.judged

    def refusal(manifest, wanted: str = LIVE, to: BundleStore = store) -> str:
        found = ask_other(
            to, wanted, ours=manifest, judged=judged, log=log, plan=small_plan(), progress=QUIET
        )
        assert found is not None and found[1] is None
        return found[0].refused

    assert "this very bundle" in refusal(ours)
    elsewhere = ours.lineage.model_copy(update={"dataset": "another"})
    assert "data set 'made_up'" in refusal(
        runs[1].manifest.model_copy(update={"lineage": elsewhere})
    )
    assert "no bundle 'nowhere'" in refusal(ours, "nowhere")
    earlier = replace(judged.held_out, test_from_ms=judged.held_out.test_from_ms - 1)
    judged = replace(judged, held_out=earlier)
    assert "it knows answers" in refusal(runs[1].manifest)


def test_no_live_bundle_is_no_comparison_and_no_report_says_what_to_do(
    runs, log, tmp_path: Path
) -> None:
    judged = runs[0].verdict.judged
    assert ask_other(
        BundleStore(tmp_path), LIVE, ours=runs[0].manifest, judged=judged, log=log,
        plan=small_plan(), progress=QUIET,
    ) is None  # fmt: skip
    with pytest.raises(BundleError, match="recsys evaluate"):
        read_report(tmp_path, "0" * 16)


def test_attributes_are_those_said_before_the_moment() -> None:
    said = pl.DataFrame(
        {
            "kind": "user",
            "event_time_ms": [1, 5, 1, 9],
            "user_id": ["a", "a", "b", "b"],
            "attributes": [
                '{"country": "fr", "name": "Ann"}', '{"country": "de", "name": "Ann"}',
                '{"country": "fr", "age": 3, "member": true}', '{"country": "uk"}',
            ],
        }
    )  # fmt: skip
    found = groupings_of(said, kind="user", ids=["b", "a", "c"], until_ms=9)
    assert [g.by for g in found] == ["country"]
    assert [found[0].names[g] if g >= 0 else None for g in found[0].group] == ["fr", "de", None]
