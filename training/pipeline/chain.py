"""The steps of a run, in order: what each reads, what it depends on, what it leaves.

::

    data ► features ► examples ► towers ► index ► ranker ► refit
         ► bundle ► evaluate ► gate ► register ► publish

Fitting is ``training.fit``'s own steps, the bundle is ``training.bundle_run``'s: ``recsys train``
calls the same functions one after the other in memory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import torch

from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.store import BundleStore
from recsys.errors import BundleError, RecsysError
from recsys.evaluation.report_document import FeaturesTable
from recsys.features import current_plan
from recsys.features.plan import Plan
from recsys.settings import Settings
from training.bundle_run import judge_draft, write_draft
from training.checkpoint_files import FolderCheckpoints
from training.examples.build import Place
from training.export import code_version
from training.fit import FIT_STEPS, fit_step, fitted_of
from training.logged_agreement import said
from training.loop import World
from training.pipeline.data_check import check_data, check_log_files
from training.pipeline.definition import Definition
from training.pipeline.engine import Step, Work
from training.pipeline.feature_check import Learned, check_features
from training.pipeline.feature_check import said as said_of_features
from training.pipeline.gate import GateRefusedError, as_json, from_json, judge, passed, refusal
from training.pipeline.outputs import Output
from training.pipeline.parts import code_identity, recipe_part, visible
from training.pipeline.retry import TransientError
from training.prepare import prepare
from training.prepared import Prepared, Sources
from training.progress import Progress
from training.report.build import Other, build_report
from training.report.other import ask_other
from training.report.run import curve_of
from training.report.write import HTML_FILE, copy_report, has_report, write_report
from training.source import (
    Positions,
    Source,
    content_hash,
    exposures_of,
    fingerprint,
    fingerprint_of_exposures,
    read_log,
    source_of,
)

_SHARDS = "shards"
DATA_FILE, FEATURES_FILE, GATE_FILE, REGISTERED_FILE, PUBLISHED_FILE = (
    "data.json", "features.json", "gate.json", "registered.json", "published.json",
)  # fmt: skip
BUNDLE, REPORT = "bundle", "report"
_VERDICT = "verdict.pt"
PUBLISH_TRY_AGAIN = 3
"""Exit code of ``recsys publish`` when a server did not answer."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Pins:
    """What a run holds on to from its beginning, so that going on after a kill is the same run."""

    run: str
    started_ms: int
    positions: Positions
    """Where the logs of events and exposures ended."""
    champion: str | None
    """What was live."""
    before: str | None = None
    """What had been live before that."""


class Chain:
    """The steps of one run."""

    def __init__(
        self,
        definition: Definition,
        settings: Settings,
        pins: Pins,
        *,
        fence: int,
        progress: Progress,
    ) -> None:
        """``fence`` is the run's number, ``progress`` shows what goes on inside steps."""
        self.definition = definition
        self.settings = settings
        self.pins = pins
        self._fence = fence
        self._progress = progress
        self._recipe = definition.full_recipe()
        self._store = BundleStore(settings.bundle_dir)
        self._source: Source | None = None
        self._plan: Plan | None = None

    def steps(self, *, until_gate: bool = False) -> list[Step]:
        """Give the steps; with ``until_gate`` those that change nothing outside their outputs."""
        fit_reads: dict[str, tuple[str, ...]] = {
            "towers": ("examples",),
            "index": ("examples", "towers"),
            "ranker": ("examples", "towers", "index"),
            "refit": ("examples", "towers"),
        }
        definition, recipe = self.definition, self._recipe
        machine = {"workers": definition.workers if definition.ray else 1, "device": self._device()}
        steps = [
            self._step("data", self._check, config=self._data_config()),
            self._step(
                "features", self._check_features, reads=("data",), config=self._features_config
            ),
            self._step(
                "examples", self._examples, reads=("data",),
                config=recipe_part(recipe, "examples") | self._exposures_config(),
            ),
            *(
                self._step(
                    name, self._fitting(name), reads=fit_reads[name],
                    config=recipe_part(recipe, name) | machine,
                )
                for name in FIT_STEPS
            ),
            self._step(
                "bundle", self._bundle, reads=("data", "examples", *FIT_STEPS),
                config=recipe_part(recipe, "bundle"),
            ),
            self._step("evaluate", self._evaluate, reads=("data", "examples", "bundle"), config={}),
            self._step(
                "gate", self._gate, reads=("data", "features", "examples", "evaluate"),
                config=lambda done: {
                    "bounds": definition.gate.model_dump(mode="json"),
                    "champion": self._rival(read_manifest(done["evaluate"].path / BUNDLE)),
                },
            ),
        ]  # fmt: skip
        if until_gate:
            return steps
        steps.append(
            self._step(
                "register", self._register, reads=("evaluate", "gate"),
                config={"store": str(self.settings.bundle_dir.absolute())}, holds=self._is_stored,
            )
        )  # fmt: skip
        if definition.publish != "no":
            steps.append(
                self._step(
                    "publish", self._publish, reads=("register",),
                    config={"how": definition.publish},
                )
            )  # fmt: skip
        return steps

    def _step(
        self,
        name: str,
        work: Callable[[Work], None],
        *,
        config: dict[str, Any] | Callable[[Mapping[str, Output]], dict[str, Any]],
        reads: tuple[str, ...] = (),
        holds: Callable[[Path], bool] = lambda _: True,
    ) -> Step:
        return Step(
            name=name, work=work, reads=reads, config=config, code=code_identity(), holds=holds
        )

    # --- data ------------------------------------------------------------------------------

    def source(self) -> Source:
        """Give the log up to the run's positions, read once."""
        if self._source is None:
            wanted = self.definition.wanted
            with self._progress.stage("read the log"):
                log = read_log(self.settings, wanted, positions=self.pins.positions)
            self._source = source_of(
                log, self._feature_plan(), wanted.dataset, shift_ms=wanted.shift_ms,
                test_from=wanted.test_from, data_hash=content_hash(log),
                exposures=None
                if wanted.from_files
                else exposures_of(self.settings, self.pins.positions),
            )  # fmt: skip
        return self._source

    def _feature_plan(self) -> Plan:
        if self._plan is None:
            settings = self.settings
            self._plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        return self._plan

    def _data_config(self) -> dict[str, Any]:
        definition = self.definition
        return {
            "wanted": asdict(definition.wanted),
            "bounds": definition.data.model_dump(mode="json"),
            "plan": self._feature_plan().schema_hash,
            # Files of a data set say nothing of their content: they are read to find it.
            "log": self.source().data_hash
            if definition.from_files
            else fingerprint(self.settings, self.pins.positions),
            # How old the newest event may be is a question of when it is asked.
            "asked_ms": None if definition.data.max_age_hours is None else self.pins.started_ms,
        }

    def _exposures_config(self) -> dict[str, Any]:
        """Give what the examples depend on beside the events: nothing where features are joined."""
        if self._recipe.ranker.features == "joined":
            return {}
        settings, positions = self.settings, self.pins.positions
        return {
            "exposures": fingerprint_of_exposures(settings, positions),
            "answered_by": exposures_of(settings, positions).bundle_ids(),
        }

    def _check(self, work: Work) -> None:
        definition = self.definition
        if not definition.from_files:
            check_log_files(self.settings, definition.data)
        source = self.source()
        facts = check_data(source.log, definition.data, now_ms=self.pins.started_ms)
        _write(
            work.out / DATA_FILE,
            {
                "data_hash": source.data_hash,
                "plan": source.plan.schema_hash,
                "dataset": source.dataset,
                "objectives": [o.model_dump(mode="json") for o in source.objectives],
                "views": source.views,
                "k": source.k,
                "relevant_type": source.relevant_type,
                "test_from_ms": source.test_from_ms,
                "facts": facts.as_json(),
            },
        )
        work.journal.tell("said", text=facts.said())

    def _features_config(self, done: Mapping[str, Output]) -> dict[str, Any]:
        document = json.loads((done["data"].path / DATA_FILE).read_bytes())
        learned = self._learned(document["dataset"], document["data_hash"])
        return {
            "bounds": self.definition.feature_check.model_dump(mode="json"),
            "expectations": [msgspec.to_builtins(e) for e in self._feature_plan().expectations],
            "learned": None if learned is None else asdict(learned),
        }

    def _learned(self, dataset: str, data_hash: str) -> Learned | None:
        """Give what was last learned from other data of this kind, by the live bundle or before it.

        A bundle of these very data is passed over, so that a run whose bundle went live finds its
        step as it was.
        """
        for bundle_id in (self.pins.champion, self.pins.before):
            if bundle_id is None:
                continue
            try:
                lineage = read_manifest(self._store.path(bundle_id)).lineage
            except BundleError:  # removed or damaged: the gate speaks of it
                continue
            if lineage.dataset == dataset and lineage.data_hash != data_hash:
                return Learned(
                    bundle_id=bundle_id, from_ms=lineage.data_from_ms,
                    until_ms=lineage.data_until_ms,
                )  # fmt: skip
        return None

    def _check_features(self, work: Work) -> None:
        source = self._same_source(work)
        table = check_features(
            source.log, source.plan, self.definition.feature_check,
            self._learned(source.dataset, source.data_hash),
        )  # fmt: skip
        _write(work.out / FEATURES_FILE, table.model_dump(mode="json"))
        work.journal.tell("said", text=said_of_features(table))

    def _same_source(self, work: Work) -> Source:
        """Give the source, if it is still what the data step saw."""
        source = self.source()
        wanted = json.loads((work.given["data"] / DATA_FILE).read_bytes())["data_hash"]
        if source.data_hash != wanted:
            raise RecsysError(
                f"wanted the events this run began with (content {wanted}), found others "
                f"({source.data_hash}): the log was changed meanwhile, by an erasure or retention; "
                "run the pipeline again"
            )
        return source

    # --- learning --------------------------------------------------------------------------

    def _examples(self, work: Work) -> None:
        source = self._same_source(work)
        prepared, sources = prepare(
            source.log, source.plan, visible(self._recipe, "examples"), source.objectives,
            test_from_ms=source.test_from_ms, progress=self._progress,
            examples=Place(root=work.out / _SHARDS), log_identity=source.data_hash or None,
            exposures=source.exposures,
        )  # fmt: skip
        if sources.logged_features is not None:
            work.journal.tell("said", text=said(sources.logged_features))
        # The output is moved when it is whole: where its shards are is said when it is read.
        prepared.with_examples_in(Path(_SHARDS)).save(work.out / "prepared.pt")
        torch.save(sources, work.out / "sources.pt")

    def _prepared(self, work: Work, step: str) -> Prepared:
        prepared = Prepared.load(work.given["examples"] / "prepared.pt")
        prepared = prepared.with_examples_in(work.given["examples"] / _SHARDS)
        return replace(prepared, recipe=visible(self._recipe, step))

    def _sources(self, work: Work) -> Sources:
        return cast(Sources, _load(work.given["examples"] / "sources.pt"))

    def _fitting(self, name: str) -> Callable[[Work], None]:
        def work(work: Work) -> None:
            prepared = self._prepared(work, name)
            given = {
                before: _load(work.given[before] / "output.pt")
                for before in FIT_STEPS
                if before in work.given
            }

            def on_epoch(phase: str, epoch: int, epochs: int, loss: float) -> None:
                work.journal.tell(
                    "epoch", step=name, phase=phase, epoch=epoch + 1, epochs=epochs, loss=loss
                )

            if self.definition.ray and name != "index":  # nothing is trained there
                from training.ray_job import fit_step_on_ray

                output = fit_step_on_ray(
                    name, prepared, given, storage=work.scratch,
                    address=self.settings.ray_address, num_workers=self.definition.workers,
                    use_gpu=self._device() == "cuda", on_epoch=on_epoch,
                )  # fmt: skip
            else:
                output = fit_step(
                    name, prepared, given, world=World(device=torch.device(self._device())),
                    checkpoints=FolderCheckpoints(work.scratch), on_epoch=on_epoch,
                )  # fmt: skip
            torch.save(output, work.out / "output.pt")

        return work

    def _device(self) -> str:
        asked = self.definition.device
        if asked == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if asked == "cuda" and not torch.cuda.is_available():
            raise RecsysError("device cuda: torch finds no CUDA device here; use cpu")
        return asked

    # --- the bundle ------------------------------------------------------------------------

    def _bundle(self, work: Work) -> None:
        fitted = fitted_of({name: _load(work.given[name] / "output.pt") for name in FIT_STEPS})
        write_draft(
            work.out / BUNDLE, self._same_source(work), self._prepared(work, "bundle"),
            self._sources(work), fitted, device=self._device(), now_ms=self.pins.started_ms,
        )  # fmt: skip

    def _evaluate(self, work: Work) -> None:
        draft = work.out / BUNDLE
        shutil.copytree(work.given["bundle"] / BUNDLE, draft)
        _, verdict = judge_draft(
            draft, self._same_source(work), self._prepared(work, "evaluate"), self._sources(work),
            progress=self._progress,
        )  # fmt: skip
        if verdict.judged is not None:  # the other bundle is told of the users in its own way
            verdict = replace(verdict, judged=replace(verdict.judged, context={}))
        torch.save(verdict, work.out / _VERDICT)

    def _gate(self, work: Work) -> None:
        candidate = work.given["evaluate"] / BUNDLE
        manifest = read_manifest(candidate)
        source, verdict = self._same_source(work), _load(work.given["evaluate"] / _VERDICT)
        champion, other = self._rival(manifest), cast("Other | None", None)
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
        checks = judge(manifest.metrics, self.definition.gate, report.against)
        _write(
            work.out / GATE_FILE,
            {
                "bundle_id": manifest.bundle_id,
                "champion": champion,
                "passed": passed(checks),
                "checks": as_json(checks),
            },
        )

    def _rival(self, candidate: Manifest) -> str | None:
        """Give what a candidate is held to: the live bundle; of that one, what was live before it.

        So a run that made its bundle live and is run again finds its gate as it was.
        """
        champion = self.pins.champion
        return self.pins.before if champion == candidate.bundle_id else champion

    # --- its way out -----------------------------------------------------------------------

    def _register(self, work: Work) -> None:
        gate = json.loads((work.given["gate"] / GATE_FILE).read_bytes())
        if not gate["passed"]:
            raise GateRefusedError(
                f"bundle {gate['bundle_id']} does not pass the gate: "
                f"{refusal(from_json(gate['checks']))}; the live bundle stays. The candidate is in "
                f"{work.given['evaluate'] / BUNDLE}, its report in "
                f"{work.given['gate'] / REPORT / HTML_FILE}"
            )
        bundle_id = self._store.add(work.given["evaluate"] / BUNDLE)
        copy_report(work.given["gate"] / REPORT, self._store.bundle_dir, bundle_id)
        if bundle_id != self._store.live():
            self._store.set_challenger(bundle_id)
        _write(work.out / REGISTERED_FILE, {"bundle_id": bundle_id})

    def _is_stored(self, output: Path) -> bool:
        try:
            bundle_id = json.loads((output / REGISTERED_FILE).read_bytes())["bundle_id"]
            self._store.path(bundle_id)
        except BundleError:
            return False
        return has_report(self._store.bundle_dir, bundle_id)

    def _publish(self, work: Work) -> None:
        registered = json.loads((work.given["register"] / REGISTERED_FILE).read_bytes())
        bundle_id = registered["bundle_id"]
        if self.definition.publish == "point":
            self._store.activate(bundle_id, fence=self._fence)
        else:
            _serve(bundle_id, self._fence)
        _write(work.out / PUBLISHED_FILE, {"bundle_id": bundle_id, "code": code_version()})


def _serve(bundle_id: str, fence: int) -> None:
    """Run ``recsys publish``: serving is another program, met in the bundle store."""
    done = subprocess.run(
        [sys.executable, "-m", "recsys.cli", "publish", bundle_id, "--fence", str(fence)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return
    said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    if done.returncode == PUBLISH_TRY_AGAIN:
        raise TransientError(said[0])
    raise RecsysError(f"publishing {bundle_id} failed (exit code {done.returncode}): {said[0]}")


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True))


def _load(path: Path) -> Any:
    """Read a file of our own outputs, whose checksum was compared before: it may hold any class."""
    return torch.load(path, weights_only=False)
