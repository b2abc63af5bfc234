"""The log of one run: read once, up to the positions it began with."""

from __future__ import annotations

import json

from recsys.errors import RecsysError
from recsys.features import current_plan
from recsys.features.plan import Plan
from recsys.settings import Settings
from training.pipeline.definition import Definition
from training.pipeline.engine import Work
from training.pipeline.pins import Pins
from training.progress import Progress
from training.source import Source, content_hash, exposures_of, read_log, source_of

DATA_FILE = "data.json"


class RunSource:
    """What the steps of one run read events from."""

    def __init__(
        self, definition: Definition, settings: Settings, pins: Pins, progress: Progress
    ) -> None:
        """``progress`` shows the reading."""
        self.definition = definition
        self.settings = settings
        self.pins = pins
        self.progress = progress
        self._source: Source | None = None
        self._plan: Plan | None = None

    def read(self) -> Source:
        """Give the log up to the run's positions, read once."""
        if self._source is None:
            wanted = self.definition.wanted
            with self.progress.stage("read the log"):
                log = read_log(self.settings, wanted, positions=self.pins.positions)
            self._source = source_of(
                log, self.feature_plan(), wanted.dataset, shift_ms=wanted.shift_ms,
                test_from=wanted.test_from, data_hash=content_hash(log),
                exposures=None
                if wanted.from_files
                else exposures_of(self.settings, self.pins.positions),
            )  # fmt: skip
        return self._source

    def feature_plan(self) -> Plan:
        """Give the plan in force."""
        if self._plan is None:
            settings = self.settings
            self._plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
        return self._plan

    def same_source(self, work: Work) -> Source:
        """Give the source, if it is still what the data step saw."""
        source = self.read()
        wanted = json.loads((work.given["data"] / DATA_FILE).read_bytes())["data_hash"]
        if source.data_hash != wanted:
            raise RecsysError(
                f"wanted the events this run began with (content {wanted}), found others "
                f"({source.data_hash}): the log was changed meanwhile, by an erasure or retention; "
                "run the pipeline again"
            )
        return source
