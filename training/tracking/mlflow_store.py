"""The one file that knows MLflow: runs, model versions and aliases of its tracking store.

``mlflow-skinny`` with SQLAlchemy is enough for a SQLite file, a database or a server; the web page
comes with the whole ``mlflow``, which need not be installed here.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.tracking.record import RunRecord

BUNDLE_TAG = "recsys.bundle_id"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # its import sets the level anew
    # A server that is away is found to be so in half a minute, not in ten.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
_METRICS_IN_A_CALL, _PARAMS_IN_A_CALL, _LONGEST_PARAM = 1000, 100, 6000
"""Limits of MLflow's own interface."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep its notices, and those of what it is made of, off our standard error."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class MlflowStore:
    """Runs of one experiment and versions of one registered model, both of the same name."""

    def __init__(self, uri: str, name: str, *, artifacts: Path | None) -> None:
        """Connect.

        Args:
            uri: ``sqlite:///…``, a database's, or a server's address.
            name: Of the experiment and of the registered model.
            artifacts: Where files of runs lie; None leaves it to the server.

        Raises:
            Exception: of many kinds, when the store does not answer.
        """
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)  # read when mlflow is imported
        with _quiet():
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            found = self._client.get_experiment_by_name(name)
            if found is None:
                place = None if artifacts is None else artifacts.absolute().as_uri()
                self._experiment = self._client.create_experiment(name, artifact_location=place)
            else:
                self._experiment = found.experiment_id
        self._name = name

    def recorded(self) -> dict[str, str]:
        """Give the runs that were recorded whole: bundle id to run id."""
        return {
            run.data.tags[BUNDLE_TAG]: run.info.run_id
            for run in self._runs("FINISHED")
            if BUNDLE_TAG in run.data.tags
        }

    def record(self, record: RunRecord) -> str:
        """Record a run and give its id. What a killed recording left of it is removed first."""
        from mlflow.entities import Metric, Param

        with _quiet():
            for run in self._runs("RUNNING"):
                if run.data.tags.get(BUNDLE_TAG) == record.bundle_id:
                    self._client.delete_run(run.info.run_id)
            run_id: str = self._client.create_run(
                self._experiment, start_time=record.started_ms, tags=record.tags,
                run_name=record.bundle_id,
            ).info.run_id  # fmt: skip
            metrics = [Metric(f.name, f.value, record.started_ms, f.step) for f in record.figures]
            params = [Param(k, v[:_LONGEST_PARAM]) for k, v in record.params.items()]
            for begin in range(0, len(metrics), _METRICS_IN_A_CALL):
                self._client.log_batch(run_id, metrics=metrics[begin : begin + _METRICS_IN_A_CALL])
            for begin in range(0, len(params), _PARAMS_IN_A_CALL):
                self._client.log_batch(run_id, params=params[begin : begin + _PARAMS_IN_A_CALL])
            for path in record.artifacts:
                self._client.log_artifact(run_id, str(path), artifact_path="bundle")
            self._client.set_terminated(run_id)  # last: only now does it count as recorded
        return run_id

    def mirror(self, runs: Mapping[str, str], aliases: Mapping[str, str]) -> list[str]:
        """Make the registered model's versions and aliases what the bundle store says they are.

        Args:
            runs: Bundle id to run id, of all that are to be versions.
            aliases: Alias to bundle id; an alias that is not named stands for none.

        Returns:
            What was changed, a line each.
        """
        changed = []
        with _quiet():
            self._ensure_model()
            versions = self._versions()
            for bundle_id, run_id in runs.items():
                if bundle_id in versions:
                    continue
                uri = self._client.get_run(run_id).info.artifact_uri
                made = self._client.create_model_version(
                    self._name, source=f"{uri}/bundle", run_id=run_id,
                    tags={BUNDLE_TAG: bundle_id},
                )  # fmt: skip
                versions[bundle_id] = str(made.version)
                changed.append(f"version {made.version} is bundle {bundle_id}")
            present = dict(self._client.get_registered_model(self._name).aliases)
            wanted = {a: versions[b] for a, b in aliases.items() if b in versions}
            for alias in sorted(present.keys() - wanted.keys()):
                self._client.delete_registered_model_alias(self._name, alias)
                changed.append(f"{alias} stands for none")
            for alias, version in sorted(wanted.items()):
                if str(present.get(alias)) != version:
                    self._client.set_registered_model_alias(self._name, alias, version)
                    changed.append(f"{alias} is version {version}")
        return changed

    def aliases(self) -> dict[str, str]:
        """Give what the registered model's aliases stand for, as bundle ids."""
        with _quiet():
            bundles = {version: bundle for bundle, version in self._versions().items()}
            found = self._client.get_registered_model(self._name).aliases
            return {alias: bundles[str(version)] for alias, version in found.items()}

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self._name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(self._name)

    def _versions(self) -> dict[str, str]:
        """Give bundle id to version."""
        found = self._pages(
            lambda token: self._client.search_model_versions(
                f"name='{self._name}'", page_token=token
            )
        )
        return {v.tags[BUNDLE_TAG]: str(v.version) for v in found if BUNDLE_TAG in v.tags}

    def _runs(self, status: str) -> list[Any]:
        with _quiet():
            return self._pages(
                lambda token: self._client.search_runs(
                    [self._experiment], f"attributes.status = '{status}'", page_token=token
                )
            )

    @staticmethod
    def _pages(search: Any) -> list[Any]:
        found, token = [], None
        while True:
            page = search(token)
            found += page
            token = page.token
            if not token:
                return found
