"""Installing a server: in one step, once, whoever is killed or comes at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recsys.errors import ServerError
from serving.embedded import machine
from serving.embedded.folder import install


def _quiet(_line: str) -> None:
    pass


def test_installs_once(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "program").write_text("x")

    first = install(tmp_path, "server-1", build, wanted_mib=1, report=_quiet)
    assert install(tmp_path, "server-1", build, wanted_mib=1, report=_quiet) == first
    assert (first / "program").read_text() == "x"
    assert len(built) == 1


def test_a_failed_build_leaves_nothing_that_looks_installed(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ServerError("no network")

    with pytest.raises(ServerError, match="no network"):
        install(tmp_path, "server-1", build, wanted_mib=1, report=_quiet)
    assert [path.name for path in tmp_path.iterdir()] == [".server-1.lock"]


_KILLED_INSTALLER = """
import os, signal, sys
from pathlib import Path
from serving.embedded.folder import install

def build(folder):
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)

install(Path(sys.argv[1]), "server-1", build, wanted_mib=1, report=print)
"""


def test_what_a_killed_installer_left_is_cleared_away(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED_INSTALLER, tmp_path], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "server-1").exists()
    folder = install(
        tmp_path, "server-1", lambda f: (f / "whole").touch(), wanted_mib=1, report=_quiet
    )
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert not list(tmp_path.glob("*.tmp"))


def test_two_at_the_same_time_install_once(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "program").touch()

    with ThreadPoolExecutor(4) as pool:
        folders = set(
            pool.map(
                lambda _: install(tmp_path, "server-1", build, wanted_mib=1, report=_quiet),
                range(8),
            )
        )
    assert len(folders) == 1
    assert len(built) == 1


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(1 << 40, 1 << 40, 5 << 20)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(ServerError, match=r"wants 100 MiB free .* found 5 MiB; free some"):
        install(tmp_path, "server-1", lambda _: None, wanted_mib=100, report=_quiet)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ServerError, match="make the folder writable"):
        install(tmp_path / "servers", "server-1", lambda _: None, wanted_mib=1, report=_quiet)
