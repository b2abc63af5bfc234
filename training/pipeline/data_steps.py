"""The first steps: are there events enough and fresh enough, and are their features sound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.errors import BundleError
from training.pipeline.data_check import check_data, check_log_files
from training.pipeline.engine import Work
from training.pipeline.feature_check import Learned, check_features
from training.pipeline.feature_check import said as said_of_features
from training.pipeline.files import write_json
from training.pipeline.outputs import Output
from training.pipeline.run_source import DATA_FILE, RunSource
from training.source import fingerprint

FEATURES_FILE = "features.json"


class DataSteps:
    """``data`` and ``features``."""

    def __init__(self, source: RunSource, store: BundleStore) -> None:
        """``store`` knows what was learned before."""
        self._source = source
        self._store = store
        self._definition = source.definition
        self._pins = source.pins

    def data_config(self) -> dict[str, Any]:
        """Give what the data depend on."""
        definition = self._definition
        return {
            "wanted": asdict(definition.wanted),
            "bounds": definition.data.model_dump(mode="json"),
            "plan": self._source.feature_plan().schema_hash,
            # Files of a data set say nothing of their content: they are read to find it.
            "log": self._source.read().data_hash
            if definition.from_files
            else fingerprint(self._source.settings, self._pins.positions),
            # How old the newest event may be is a question of when it is asked.
            "asked_ms": None if definition.data.max_age_hours is None else self._pins.started_ms,
        }

    def check(self, work: Work) -> None:
        """Say what the events are, and refuse too few, too old or broken ones."""
        definition = self._definition
        if not definition.from_files:
            check_log_files(self._source.settings, definition.data)
        source = self._source.read()
        facts = check_data(source.log, definition.data, now_ms=self._pins.started_ms)
        write_json(
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

    def features_config(self, done: Mapping[str, Output]) -> dict[str, Any]:
        """Give what the check of features depends on."""
        document = json.loads((done["data"].path / DATA_FILE).read_bytes())
        learned = self._learned(document["dataset"], document["data_hash"])
        return {
            "bounds": self._definition.feature_check.model_dump(mode="json"),
            "expectations": [
                msgspec.to_builtins(e) for e in self._source.feature_plan().expectations
            ],
            "learned": None if learned is None else asdict(learned),
        }

    def _learned(self, dataset: str, data_hash: str) -> Learned | None:
        """Give what was last learned from other data of this kind, by the live bundle or before it.

        A bundle of these very data is passed over, so that a run whose bundle went live finds its
        step as it was.
        """
        for bundle_id in (self._pins.champion, self._pins.before):
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

    def check_features(self, work: Work) -> None:
        """Profile the features, and refuse what expectations or the last data do not allow."""
        source = self._source.same_source(work)
        table = check_features(
            source.log, source.plan, self._definition.feature_check,
            self._learned(source.dataset, source.data_hash),
        )  # fmt: skip
        write_json(work.out / FEATURES_FILE, table.model_dump(mode="json"))
        work.journal.tell("said", text=said_of_features(table))
