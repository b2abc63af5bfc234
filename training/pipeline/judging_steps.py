"""The steps that make a bundle of what was learned, and hold it to its bounds and its rival."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import cast

import torch

from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.store import BundleStore
from recsys.evaluation.report_document import FeaturesTable
from training.bundle_run import judge_draft, write_draft
from training.fit import FIT_STEPS, fitted_of
from training.pipeline.data_steps import FEATURES_FILE
from training.pipeline.engine import Work
from training.pipeline.files import load_output, write_json
from training.pipeline.gate import as_json, judge, passed
from training.pipeline.learning_steps import LearningSteps
from training.pipeline.run_source import RunSource
from training.report.build import Other, build_report
from training.report.other import ask_other
from training.report.run import curve_of
from training.report.write import write_report

BUNDLE, REPORT = "bundle", "report"
GATE_FILE = "gate.json"
_VERDICT = "verdict.pt"


class JudgingSteps:
    """``bundle``, ``evaluate`` and ``gate``."""

    def __init__(self, source: RunSource, learning: LearningSteps, store: BundleStore) -> None:
        """``store`` has the rival."""
        self._source = source
        self._learning = learning
        self._store = store
        self._definition = source.definition
        self._pins = source.pins
        self._progress = source.progress

    def bundle(self, work: Work) -> None:
        """Write the bundle, not judged yet."""
        outputs = {name: load_output(work.given[name] / "output.pt") for name in FIT_STEPS}
        learning = self._learning
        write_draft(
            work.out / BUNDLE,
            self._source.same_source(work),
            learning.prepared(work, "bundle"),
            learning.sources(work),
            fitted_of(outputs),
            device=learning.device(),
            now_ms=self._pins.started_ms,
            progress=self._progress,
        )

    def evaluate(self, work: Work) -> None:
        """Judge it on the held-out events."""
        draft = work.out / BUNDLE
        shutil.copytree(work.given["bundle"] / BUNDLE, draft)
        _, verdict = judge_draft(
            draft,
            self._source.same_source(work),
            self._learning.prepared(work, "evaluate"),
            self._learning.sources(work),
            progress=self._progress,
        )
        if verdict.judged is not None:  # the other bundle is told of the users in its own way
            verdict = replace(verdict, judged=replace(verdict.judged, context={}))
        torch.save(verdict, work.out / _VERDICT)

    def gate(self, work: Work) -> None:
        """Hold it to the bounds and its rival; writes the report and the verdict."""
        candidate = work.given["evaluate"] / BUNDLE
        manifest = read_manifest(candidate)
        source, verdict = (
            self._source.same_source(work),
            load_output(work.given["evaluate"] / _VERDICT),
        )
        champion, other = self.rival(manifest), cast("Other | None", None)
        if champion is not None:
            other = ask_other(
                self._store, champion, ours=manifest, judged=verdict.judged, log=source.log,
                plan=source.plan, progress=self._progress,
            )  # fmt: skip
        report = build_report(manifest, verdict, source.log, other=other, curve=curve_of(candidate))
        features = (work.given["features"] / FEATURES_FILE).read_bytes()
        report = report.model_copy(
            update={"features": FeaturesTable.model_validate_json(features)}
        )  # fmt: skip
        write_report(report, work.out / REPORT)
        checks = judge(manifest.metrics, self._definition.gate, report.against)
        write_json(
            work.out / GATE_FILE,
            {
                "bundle_id": manifest.bundle_id,
                "champion": champion,
                "passed": passed(checks),
                "checks": as_json(checks),
            },
        )

    def rival(self, candidate: Manifest) -> str | None:
        """Give what a candidate is held to: the live bundle; of that one, what was live before it.

        So a run that made its bundle live and is run again finds its gate as it was.
        """
        champion = self._pins.champion
        return self._pins.before if champion == candidate.bundle_id else champion
