"""The steps of a run, in order: what each reads, and what it depends on.

::

    data ► features ► examples ► towers ► index ► ranker ► refit
         ► bundle ► evaluate ► gate ► register ► publish

Fitting is ``training.fit``'s own steps, the bundle is ``training.bundle_run``'s: ``recsys train``
calls the same functions one after the other in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.settings import Settings
from training.fit import FIT_STEPS
from training.pipeline.data_steps import DataSteps
from training.pipeline.definition import Definition
from training.pipeline.engine import Step, Work
from training.pipeline.judging_steps import BUNDLE, JudgingSteps
from training.pipeline.learning_steps import LearningSteps
from training.pipeline.outputs import Output
from training.pipeline.parts import code_identity, recipe_part
from training.pipeline.pins import Pins
from training.pipeline.release_steps import ReleaseSteps
from training.pipeline.run_source import RunSource
from training.progress import Progress


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
        self._definition = definition
        self._settings = settings
        store = BundleStore(settings.bundle_dir)
        source = RunSource(definition, settings, pins, progress)
        self._data = DataSteps(source, store)
        self._learning = LearningSteps(source)
        self._judging = JudgingSteps(source, self._learning, store)
        self._release = ReleaseSteps(definition, store, fence=fence)

    def steps(self, *, until_gate: bool = False) -> list[Step]:
        """Give the steps; with ``until_gate`` those that change nothing outside their outputs."""
        fit_reads: dict[str, tuple[str, ...]] = {
            "towers": ("examples",),
            "index": ("examples", "towers"),
            "ranker": ("examples", "towers", "index"),
            "refit": ("examples", "towers"),
        }
        definition, recipe = self._definition, self._definition.full_recipe()
        data, learning = self._data, self._learning
        judging, release = self._judging, self._release
        machine = {
            "workers": definition.workers if definition.ray else 1,
            "device": learning.device(),
        }
        steps = [
            _step("data", data.check, config=data.data_config()),
            _step(
                "features", data.check_features, reads=("data",), config=data.features_config
            ),
            _step(
                "examples", learning.examples, reads=("data",),
                config=recipe_part(recipe, "examples") | learning.exposures_config(),
            ),
            *(
                _step(
                    name, learning.fitting(name), reads=fit_reads[name],
                    config=recipe_part(recipe, name) | machine,
                )
                for name in FIT_STEPS
            ),
            _step(
                "bundle", judging.bundle, reads=("data", "examples", *FIT_STEPS),
                config=recipe_part(recipe, "bundle"),
            ),
            _step("evaluate", judging.evaluate, reads=("data", "examples", "bundle"), config={}),
            _step(
                "gate", judging.gate, reads=("data", "features", "examples", "evaluate"),
                config=lambda done: {
                    "bounds": definition.gate.model_dump(mode="json"),
                    "champion": judging.rival(read_manifest(done["evaluate"].path / BUNDLE)),
                },
            ),
        ]  # fmt: skip
        if until_gate:
            return steps
        steps.append(
            _step(
                "register", release.register, reads=("evaluate", "gate"),
                config={"store": str(self._settings.bundle_dir.absolute())},
                holds=release.is_stored,
            )
        )  # fmt: skip
        if definition.publish != "no":
            steps.append(
                _step(
                    "publish", release.publish, reads=("register",),
                    config={"how": definition.publish},
                )
            )  # fmt: skip
        return steps


def _step(
    name: str,
    work: Callable[[Work], None],
    *,
    config: dict[str, Any] | Callable[[Mapping[str, Output]], dict[str, Any]],
    reads: tuple[str, ...] = (),
    holds: Callable[[Path], bool] = lambda _: True,
) -> Step:
    return Step(name=name, work=work, reads=reads, config=config, code=code_identity(), holds=holds)
