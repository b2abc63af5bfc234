"""Brings MLflow in line with the bundle store, now or later, and never fails a run.

The bundle store says which bundles there are and what they are called; each bundle says how it was
made. So whatever MLflow missed (it was away, its disk was full, we were killed between the store
and MLflow) is made good the next time anything is mirrored, or by ``recsys pipeline track``.
Nothing is ever read back from MLflow into the store.
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle.store import BundleStore
from recsys.settings import Settings
from training.tracking.record import record_of


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """What was done."""

    uri: str
    recorded: list[str]
    """Bundles whose runs were recorded just now."""
    changed: list[str]
    """Versions and aliases that were changed, a line each."""
    error: str = ""
    """Why it was not done, or not wholly; "" when all is in line."""

    def said(self) -> str:
        """Give it in a sentence."""
        if self.error:
            return (
                f"MLflow ({self.uri}) was not told: {self.error}; nothing is lost, "
                "`recsys pipeline track` does it later"
            )
        what = [*(f"run of {bundle_id} recorded" for bundle_id in self.recorded), *self.changed]
        return f"MLflow: {'; '.join(what) or 'in line'}"


def tracking_uri(settings: Settings) -> str:
    """Give where runs are recorded: ``MLFLOW_TRACKING_URI``, else a SQLite file."""
    own = settings.mlflow_tracking_uri
    return own or f"sqlite:///{(tracking_folder(settings) / 'mlflow.db').absolute()}"


def tracking_folder(settings: Settings) -> Path:
    """Give the folder of the SQLite file and of the runs' files."""
    return settings.state_dir / "mlflow"


def mirror_bundles(settings: Settings) -> Mirrored:
    """Record every bundle that was not yet, and make versions and aliases those of the store.

    Never raises: what goes wrong is in the answer.
    """
    uri = tracking_uri(settings)
    recorded: list[str] = []
    changed: list[str] = []
    try:
        _mirror(settings, uri, recorded, changed)
    except Exception as error:  # noqa: BLE001  of MLflow, its database or its disk: never a run's
        text = str(error).strip().splitlines()[:1]
        return Mirrored(
            uri=uri, recorded=recorded, changed=changed,
            error=f"{type(error).__name__}: {text[0] if text else 'no reason given'}",
        )  # fmt: skip
    return Mirrored(uri=uri, recorded=recorded, changed=changed)


def _mirror(settings: Settings, uri: str, recorded: list[str], changed: list[str]) -> None:
    from training.tracking.mlflow_store import MlflowStore

    folder = tracking_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    # Two of us at once would record the same run twice.
    with (folder / "mirror.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_ours = settings.mlflow_tracking_uri is None
        store = MlflowStore(
            uri, settings.namespace, artifacts=folder / "artifacts" if is_ours else None
        )
        bundles = BundleStore(settings.bundle_dir)
        runs = store.recorded()
        for manifest in reversed(bundles.list()):  # oldest first: versions count upwards
            if manifest.bundle_id not in runs:
                runs[manifest.bundle_id] = store.record(record_of(bundles.path(manifest.bundle_id)))
                recorded.append(manifest.bundle_id)
        there = {manifest.bundle_id for manifest in bundles.list()}
        mirrored = {bundle_id: run for bundle_id, run in runs.items() if bundle_id in there}
        changed += store.mirror(mirrored, bundles.aliases())
