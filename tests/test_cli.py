"""One command line: every door opens, and what goes wrong is one line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from recsys import cli

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
