"""``make verify-feast`` says what it wants when given no checkout of Feast, or a wrong one."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from recsys.errors import ConfigurationError
from tests.feast_universal.__main__ import feast_tests, main


def checkout(folder: Path, release: str) -> Path:
    (folder / "sdk" / "python" / "tests" / "universal").mkdir(parents=True)
    (folder / "CHANGELOG.md").write_text(
        f"# Changelog\n\n# [{release}](https://x) (2026-01-01)\n\n# [0.1.0](https://x)\n"
    )
    return folder


def test_a_checkout_of_the_installed_release_is_taken(tmp_path: Path) -> None:
    source = checkout(tmp_path, version("feast"))
    assert feast_tests(str(source)) == tmp_path / "sdk" / "python"


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([""]) == 2
    assert "wanted FEAST_SOURCE" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="found no sdk/python/tests/universal"):
        feast_tests(str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"found 0\.1\.2 .*checkout v"):
        feast_tests(str(checkout(tmp_path, "0.1.2")))
    (tmp_path / "CHANGELOG.md").unlink()
    with pytest.raises(ConfigurationError, match="found no release"):
        feast_tests(str(tmp_path))
