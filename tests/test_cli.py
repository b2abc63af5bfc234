"""One command line: every door opens, and what goes wrong is one line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from recsys import cli
from recsys.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("command", cli.COMMANDS.values(), ids=cli.COMMANDS)
def test_every_command_leads_to_a_module(command: cli.Command) -> None:
    assert importlib.util.find_spec(command.module) is not None


def test_alone_it_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in said
        assert command.help in said


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["upp"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recsys: no command 'upp' (found: up, down")
    assert said.count("\n") == 1


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A command that does what its first argument says."""
    (tmp_path / "one_door.py").write_text(
        "import sys\n"
        "from recsys.errors import ConfigurationError\n"
        "what = sys.argv[1] if len(sys.argv) > 1 else ''\n"
        "if what == 'explained': raise ConfigurationError('wanted a, found b; do c')\n"
        "if what == 'interrupted': raise KeyboardInterrupt\n"
        "if what == 'exits': sys.exit(7)\n"
        "if what == 'bug': raise RuntimeError('a bug')\n"
        "if what == 'full': raise OSError(28, 'No space left on device', 'a/file')\n"
        "if what == 'odd': raise OSError(22, 'Invalid argument')\n"
        "print(__name__, sys.argv)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "door", cli.Command("one_door", "a door"))
    monkeypatch.setitem(cli.COMMANDS, "many", cli.Command("one_door", "doors", True))
    return "door"


def test_a_command_sees_its_own_arguments(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.argv
    assert cli.main([door, "--x", "1"]) == 0
    assert capsys.readouterr().out == "__main__ ['recsys door', '--x', '1']\n"
    assert cli.main(["many", "--x"]) == 0
    assert capsys.readouterr().out == "__main__ ['recsys', 'many', '--x']\n"
    assert sys.argv is before


def test_how_a_command_ends_is_our_exit_code(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([door, "exits"]) == 7
    assert cli.main([door, "explained"]) == 2
    assert capsys.readouterr().err == "recsys door: wanted a, found b; do c\n"
    assert cli.main([door, "interrupted"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main([door, "bug"])


def test_a_full_disk_is_one_line_for_every_command(
    door: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([door, "full"]) == 2
    assert capsys.readouterr().err == (
        "recsys door: wanted to use a/file, found: No space left on device; free some space, "
        "or set RECSYS_STATE_DIR to another folder\n"
    )
    with pytest.raises(OSError, match="Invalid argument"):
        cli.main([door, "odd"])


def test_a_wrong_setting_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECSYS_API_PORT", "eighty")
    # A test before this one may have imported what a command line of its own runs afresh.
    monkeypatch.delitem(sys.modules, "recsys.bundle.cli", raising=False)
    assert cli.main(["bundle", "list"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recsys bundle: RECSYS_API_PORT: ")
    assert said.endswith("found 'eighty'; correct or unset it\n")
    assert said.count("\n") == 1


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_BROKER", "")
    monkeypatch.setenv("RECSYS_API_PORT", "")
    monkeypatch.setenv("REDIS_URL", "")
    settings = Settings()
    assert (settings.broker, settings.api_port, settings.redis_url) == (None, 8080, None)
