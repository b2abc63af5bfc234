"""MLflow shows what the bundle store says; it may be away, killed or full and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.settings import Settings
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import make_debug_bundle
from training.tracking.mirror import mirror_bundles, tracking_folder, tracking_uri
from training.tracking.mlflow_store import MlflowStore
from training.tracking.record import record_of

ROOT = Path(__file__).resolve().parents[2]
# MLflow's own tables warn of SQLAlchemy's next version when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("made")
    return [make_debug_bundle(folder, plan=small_plan(), seed=seed) for seed in (7, 9)]


@pytest.fixture
def settings(tmp_path: Path, made: list[Path]) -> Settings:
    settings = Settings(RECSYS_STATE_DIR=tmp_path, RECSYS_NAMESPACE="recsys")
    for folder in made:
        BundleStore(settings.bundle_dir).add(folder)
    return settings


def opened(settings: Settings) -> MlflowStore:
    return MlflowStore(tracking_uri(settings), settings.namespace, artifacts=None)


def test_a_record_has_the_recipe_the_losses_the_metrics_and_who_made_it(made) -> None:
    record, manifest = record_of(made[0]), read_manifest(made[0])
    assert record.params["towers.epochs"] == "2" and record.params["seed"] == "7"
    figures = {(f.name, f.step): f.value for f in record.figures}
    curve = json.loads((made[0] / "training_curve.json").read_text())
    assert figures["loss/towers", 1] == curve[1]["loss"]
    served = manifest.metrics["views"]["new_items_only"]["served"]
    assert figures["new_items_only/served/recall_at_10", 0] == served["recall@10"]
    low, high = served["recall@10_interval"]
    assert figures["new_items_only/served/recall_at_10_low", 0] == low
    assert figures["new_items_only/served/recall_at_10_high", 0] == high
    assert record.tags["recsys.bundle_id"] == made[0].name
    assert record.tags["recsys.code_version"] == manifest.lineage.code_version
    assert {p.name for p in record.artifacts} >= {"MODEL_CARD.md", "metrics.json"}


def test_runs_versions_and_aliases_are_those_of_the_store(settings, made) -> None:
    store = BundleStore(settings.bundle_dir)
    a, b = (folder.name for folder in made)
    store.activate(a)
    store.set_challenger(b)
    done = mirror_bundles(settings)
    assert done.error == "" and sorted(done.recorded) == sorted([a, b])
    assert opened(settings).aliases() == {"champion": a, "challenger": b}
    assert list(tracking_folder(settings).rglob("MODEL_CARD.md"))
    again = mirror_bundles(settings)
    assert again.recorded == [] and again.changed == [] and again.said() == "MLflow: in line"
    store.activate(b)  # and we are killed before MLflow hears of it
    changed = mirror_bundles(settings).changed
    assert changed[0] == "challenger stands for none" and changed[1].startswith("champion is")
    assert opened(settings).aliases() == {"champion": b}


def test_a_recording_that_was_killed_is_done_again_once(settings, made, monkeypatch) -> None:
    child = (
        "import os, sys\n"
        "from recsys.settings import Settings\n"
        "from training.tracking.mirror import mirror_bundles\n"
        "from training.tracking import mlflow_store\n"
        "store = mlflow_store.MlflowStore\n"
        "record = store.record\n"
        "def die(self, what):\n"
        "    self._client.log_artifact = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "    return record(self, what)\n"
        "store.record = die\n"
        "mirror_bundles(Settings(RECSYS_STATE_DIR=sys.argv[1], RECSYS_NAMESPACE='recsys'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, str(settings.state_dir)], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert opened(settings).recorded() == {}
    assert len(mirror_bundles(settings).recorded) == 2
    assert sorted(opened(settings).recorded()) == sorted(f.name for f in made)


def test_an_mlflow_that_is_away_is_said_and_made_good_later(settings, tmp_path) -> None:
    away = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        done = mirror_bundles(away)
    finally:
        del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    assert done.error and "recsys pipeline track" in done.said()
    assert len(mirror_bundles(settings).recorded) == 2


def test_a_full_disk_is_said_and_made_good_later(settings) -> None:
    """A limit on file sizes stands for the disk: SQLite cannot grow its file, the run goes on."""
    child = (
        "import json, resource, signal, sys\n"
        "from recsys.settings import Settings\n"
        "from training.tracking.mirror import mirror_bundles\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "done = mirror_bundles(Settings(RECSYS_STATE_DIR=sys.argv[1], RECSYS_NAMESPACE='recsys'))\n"
        "print(done.error)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run(
        [sys.executable, "-c", child, str(settings.state_dir)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip()
    assert mirror_bundles(settings).error == ""
    assert len(opened(settings).recorded()) == 2
