"""Every peer is pinned and runnable, or says why not; the list says what is built."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.peers import command, environments
from benchmarks.peers.registry import FOLDER, PEERS, Peer
from recsys.errors import ConfigurationError

ROOT = FOLDER.parent.parent


@pytest.fixture(params=PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    return request.param


def test_a_peer_is_pinned_or_says_why_it_is_not_run(peer: Peer) -> None:
    if peer.reason:
        assert len(peer.reason) > 40
        return
    assert re.match(r"\d+\.\d+", peer.version)
    assert peer.settings


def test_a_peer_has_a_benchmark_that_runs_it_and_a_page(peer: Peer) -> None:
    path = ROOT.joinpath(*peer.module.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    functions = {n.name for n in ast.parse(path.read_text()).body if hasattr(n, "name")}
    assert "main" in functions
    assert (ROOT / "docs" / peer.page).is_file()


def test_every_pinned_environment_is_of_a_peer() -> None:
    folders = {lock.parent.name for lock in FOLDER.glob("*/requirements.txt")}
    assert folders == {p.environment for p in PEERS if p.environment}


def test_the_page_gives_every_peer_with_its_version_and_settings(peer: Peer) -> None:
    text = (ROOT / "docs" / "peers.md").read_text()
    assert f"{peer.name} {peer.version}".strip() in text
    assert (peer.reason or peer.settings) in text
    assert peer.command in text


def test_the_list_names_every_peer_with_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    built = environments.folder_of("bytewax", tmp_path)
    built.mkdir(parents=True)
    (built / "complete").touch()
    assert main(["peers", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {p.name for p in PEERS}
    assert rows["Bytewax"]["state"] == "environment bytewax: built"
    assert rows["Quix Streams"]["state"] == "environment quix_streams: not built"
    assert main(["peers"]) == 0
    shown = capsys.readouterr().out
    assert all(p.name in shown for p in PEERS)


def test_an_environment_that_cannot_be_made_says_why_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "_HERE", tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "requirements.txt").write_text(f"x @ file://{tmp_path}/nowhere.whl\n")
    assert environments.state_of("broken", tmp_path) == "not built"
    with pytest.raises(ConfigurationError, match="broken: wanted an environment"):
        environments.python_of("broken", tmp_path)
    assert "nowhere.whl" in environments.state_of("broken", tmp_path)


def test_an_unknown_peer_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--install", "nosuch"]) == 2
    assert "Quix Streams" in capsys.readouterr().err
