"""The steps that learn: examples from the log, then towers, index, ranker and the refit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from recsys.errors import RecsysError
from training.checkpoint_files import FolderCheckpoints
from training.examples.build import Place
from training.fit import FIT_STEPS, fit_step
from training.logged_agreement import said
from training.loop import World
from training.pipeline.engine import Work
from training.pipeline.files import load_output
from training.pipeline.parts import visible
from training.pipeline.run_source import RunSource
from training.prepare import prepare
from training.prepared import Prepared, Sources
from training.source import exposures_of, fingerprint_of_exposures

_SHARDS = "shards"


class LearningSteps:
    """``examples`` and the steps of ``training.fit``."""

    def __init__(self, source: RunSource) -> None:
        """Events are read from ``source``."""
        self._source = source
        self._definition = source.definition
        self._recipe = source.definition.full_recipe()
        self._progress = source.progress

    def exposures_config(self) -> dict[str, Any]:
        """Give what the examples depend on beside the events: nothing where features are joined."""
        if self._recipe.ranker.features == "joined":
            return {}
        settings, positions = self._source.settings, self._source.pins.positions
        return {
            "exposures": fingerprint_of_exposures(settings, positions),
            "answered_by": exposures_of(settings, positions).bundle_ids(),
        }

    def examples(self, work: Work) -> None:
        """Make examples of events, as shards."""
        source = self._source.same_source(work)
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

    def prepared(self, work: Work, step: str) -> Prepared:
        """Give the examples, with what ``step`` may see of the recipe."""
        prepared = Prepared.load(work.given["examples"] / "prepared.pt")
        prepared = prepared.with_examples_in(work.given["examples"] / _SHARDS)
        return replace(prepared, recipe=visible(self._recipe, step))

    def sources(self, work: Work) -> Sources:
        """Give what candidate sources are made of."""
        return cast(Sources, load_output(work.given["examples"] / "sources.pt"))

    def fitting(self, name: str) -> Callable[[Work], None]:
        """Give the work of one step of ``training.fit``, here or on Ray."""

        def work(work: Work) -> None:
            prepared = self.prepared(work, name)
            given = {
                before: load_output(work.given[before] / "output.pt")
                for before in FIT_STEPS
                if before in work.given
            }

            def on_epoch(phase: str, epoch: int, epochs: int, loss: float) -> None:
                work.journal.tell(
                    "epoch", step=name, phase=phase, epoch=epoch + 1, epochs=epochs, loss=loss
                )

            if self._definition.ray and name != "index":  # nothing is trained there
                from training.ray_job import fit_step_on_ray

                output = fit_step_on_ray(
                    name, prepared, given, storage=work.scratch,
                    address=self._source.settings.ray_address, num_workers=self._definition.workers,
                    use_gpu=self.device() == "cuda", on_epoch=on_epoch,
                )  # fmt: skip
            else:
                output = fit_step(
                    name, prepared, given, world=World(device=torch.device(self.device())),
                    checkpoints=FolderCheckpoints(work.scratch), on_epoch=on_epoch,
                )  # fmt: skip
            torch.save(output, work.out / "output.pt")

        return work

    def device(self) -> str:
        """Give what is trained on. Raises RecsysError when CUDA is wanted and absent."""
        asked = self._definition.device
        if asked == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if asked == "cuda" and not torch.cuda.is_available():
            raise RecsysError("device cuda: torch finds no CUDA device here; use cpu")
        return asked
