"""Aliases say what the pointers say, whoever changes them at once and wherever one is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.bundle.cli import main
from recsys.bundle.store import BundleStore
from recsys.errors import BundleError
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import make_debug_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[BundleStore, str, str]:
    folder = tmp_path_factory.mktemp("state") / "bundles"
    a, b = (make_debug_bundle(folder, plan=small_plan(), seed=seed).name for seed in (7, 9))
    return BundleStore(folder), a, b


@pytest.fixture
def store(filled: tuple[BundleStore, str, str]) -> BundleStore:
    """The two bundles, with no pointer at all."""
    for name in ("live.json", "beside.json", "challenger.json", "activations.json"):
        (filled[0].bundle_dir / name).unlink(missing_ok=True)
    return filled[0]


def test_the_champion_is_what_is_live_and_a_challenger_that_goes_live_is_none(store, filled):
    _, a, b = filled
    assert store.aliases() == {}
    store.set_challenger(a)
    assert store.aliases() == {"challenger": a}
    store.activate(b)
    assert store.aliases() == {"champion": b, "challenger": a}
    assert (store.resolve("champion"), store.resolve("challenger"), store.resolve("x")) == (
        b,
        a,
        "x",
    )
    store.activate(a)
    assert store.aliases() == {"champion": a}
    with pytest.raises(BundleError, match="no bundle is the challenger"):
        store.resolve("challenger")
    store.set_challenger(None)
    assert store.rollback() == b
    with pytest.raises(BundleError, match="no bundle 'nowhere'"):
        store.set_challenger("nowhere")


def test_what_is_beside_the_live_bundle_leaves_when_it_goes_live(
    store, filled, capsys, monkeypatch
):
    _, a, b = filled
    assert store.beside() == ()
    store.activate(a)
    with pytest.raises(BundleError, match="is the live bundle"):
        store.put_beside(a)
    with pytest.raises(BundleError, match="no bundle 'nowhere'"):
        store.put_beside("nowhere")
    for _ in range(2):  # harmless when repeated
        store.put_beside(b)
        assert store.beside() == (b,)
    store.activate(b)
    store.activate(a)
    assert store.beside() == (), "it left for good when it went live"
    store.put_beside(b)
    monkeypatch.setenv("RECSYS_STATE_DIR", str(store.bundle_dir.parent))
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "beside" in listed
    assert "champion" in listed
    store.retire(b)
    with pytest.raises(BundleError, match=f"found '{b}'; there is none"):
        store.retire(b)


def test_no_more_than_so_many_are_served_beside(store, filled, monkeypatch):
    _, a, b = filled
    monkeypatch.setattr("recsys.bundle.store.MAX_BESIDE", 1)
    store.put_beside(a)
    with pytest.raises(BundleError, match=f"at most 1 bundles beside the live one, found {a}"):
        store.put_beside(b)
    assert store.beside() == (a,)


def test_an_earlier_run_cannot_undo_a_later_one(store, filled):
    _, a, b = filled
    store.activate(a, fence=12)
    with pytest.raises(BundleError, match="run 12, which began later"):
        store.activate(b, fence=11)
    assert store.live() == a
    store.activate(b)  # a person may
    with pytest.raises(BundleError, match="run 12"):
        store.activate(a, fence=11)
    store.activate(a, fence=12)
    assert store.rollback() == b
    with pytest.raises(BundleError, match="run 12"):
        store.activate(a, fence=11)


def test_a_store_of_before_keeps_its_history(store, filled):
    _, a, b = filled
    (store.bundle_dir / "live.json").write_text(json.dumps({"bundle_id": a}))
    # Its writer was killed between the history and the pointer: b never was live.
    (store.bundle_dir / "activations.json").write_text(json.dumps([b, a, b]))
    assert store.rollback() == b
    store.activate(a)
    assert store.rollback() == b


def test_a_damaged_pointer_is_said_and_put_right_by_activating(store, filled):
    _, a, _ = filled
    (store.bundle_dir / "live.json").write_text("[]")
    with pytest.raises(BundleError, match="bundle activate"):
        store.aliases()
    store.activate(a)
    assert store.live() == a


def test_killed_at_any_line_a_pointer_is_the_old_or_the_new_one(store, filled):
    _, a, b = filled
    done = subprocess.run(
        [sys.executable, "-m", "tests.bundle.killed_store", str(store.bundle_dir), a, b],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert min(json.loads(done.stdout).values()) > 10


def test_two_at_once_lose_neither_s_change(store, filled):
    """Many activations by two processes: every one of them is in the history."""
    _, a, b = filled
    work = (
        "import sys; from pathlib import Path; from recsys.bundle.store import BundleStore\n"
        "for _ in range(20): BundleStore(Path(sys.argv[1])).activate(sys.argv[2])"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", work, str(store.bundle_dir), bundle], cwd=ROOT)
        for bundle in (a, b)
    ]
    assert [process.wait() for process in both] == [0, 0]
    pointer = json.loads((store.bundle_dir / "live.json").read_bytes())
    activated = [*pointer["before"], pointer["bundle_id"]]
    assert (activated.count(a), activated.count(b)) == (20, 20)


def test_the_command_shows_and_sets_them(store, filled, monkeypatch, capsys):
    _, a, b = filled
    monkeypatch.setenv("RECSYS_STATE_DIR", str(store.bundle_dir.parent))
    assert os.environ["RECSYS_STATE_DIR"]
    assert main(["alias", "challenger", a]) == 0
    assert main(["activate", "challenger"]) == 0
    assert main(["alias", "challenger", b]) == 0
    assert main(["alias"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"champion": a, "challenger": b}
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "champion" in shown and "challenger" in shown
    assert main(["alias", "champion", b]) == 1
    assert "recsys publish" in capsys.readouterr().err
    assert main(["alias", "challenger", "--remove"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"challenger": None}
