"""Docs are true: every command, setting, path and link they name exists."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from recsys.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
TOP_LEVEL = ("recsys", "feature_repo", "serving", "training", "benchmarks", "tests", "docs")

FENCE = re.compile(r"^```.*?^```", re.M | re.S)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(#[^)]*)?\)")


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def _shell_lines(text: str) -> list[str]:
    """Lines of fenced shell blocks and inline code: where commands stand."""
    lines: list[str] = []
    for block in FENCE.findall(text):
        head, *body = block.splitlines()
        if head in ("```", "```sh", "```bash", "```shell", "```console"):
            lines += [line.removeprefix("$ ").strip() for line in body[:-1]]
    return lines + CODE.findall(FENCE.sub("", text))


@cache
def _make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.M))


@cache
def _commands() -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-m", "recsys.cli", "--help"], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^\s+([a-z][a-z-]*)\s", shown.stdout, re.M))


def test_named_make_targets_exist(page: Path) -> None:
    for line in _shell_lines(page.read_text()):
        match = re.match(r"(?:[A-Z_]+=\S+ )*make ([a-z][a-z0-9-]*)", line)
        if match:
            assert match[1] in _make_targets(), f"{page.name}: `{line}`"


def test_named_recsys_commands_exist(page: Path) -> None:
    for line in _shell_lines(page.read_text()):
        match = re.match(r"(?:\S+/)?recsys ([a-z][a-z-]*)", line)
        if match:
            assert match[1] in _commands(), f"{page.name}: `{line}`"


_COMMAND = re.compile(r"(?:\S+/)?recsys ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
_HELP_OF_EACH = """
import contextlib, io, json, sys
from recsys.cli import main

shown = {}
for command in json.load(sys.stdin):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main([*command.split(), "--help"])
    shown[command] = text.getvalue()
json.dump(shown, sys.stdout)
"""


def _with_options(page: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each line that gives a command options: the line, command and its parents, options."""
    for line in _shell_lines(page.read_text()):
        match = _COMMAND.match(line)
        options = _OPTION.findall(line) if match else []
        if match and options:
            words = [word for word in match.groups() if word]
            yield line, [" ".join(words[: n + 1]) for n in range(len(words))], options


@cache
def _options() -> dict[str, set[str]]:
    """What ``--help`` of every command named anywhere lists, asked in one process: imports take
    most of the time."""
    commands = {
        command for page in PAGES for _, names, _ in _with_options(page) for command in names
    }
    shown = subprocess.run(
        [sys.executable, "-c", _HELP_OF_EACH],
        input=json.dumps(sorted(commands)), capture_output=True, text=True, check=True,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    texts: dict[str, str] = json.loads(shown.stdout)
    return {command: set(re.findall(r"--[a-z][a-z-]*", text)) for command, text in texts.items()}


def test_named_options_exist(page: Path) -> None:
    for line, commands, options in _with_options(page):
        known = set[str]().union(*(_options()[command] for command in commands))
        for option in options:
            assert option in known, f"{page.name}: `{line}`: no {option}"


def test_named_modules_exist(page: Path) -> None:
    for line in _shell_lines(page.read_text()):
        match = re.search(r"python3? -m ((?:recsys|serving|training|benchmarks)[\w.]*)", line)
        if match:
            path = ROOT / match[1].replace(".", "/")
            exists = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            assert exists, f"{page.name}: `{line}`"


@cache
def _names_in_source() -> set[str]:
    source = "".join(
        path.read_text()
        for folder in ("recsys", "serving", "training", "tests", "feature_repo")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml") and path != Path(__file__)
    )
    source += (ROOT / "Makefile").read_text()
    return set(re.findall(r"\bRECSYS_[A-Z_]+\b", source))


def test_named_settings_exist(page: Path) -> None:
    known = {field.alias for field in Settings.model_fields.values()} | _names_in_source()
    for name in set(re.findall(r"\bRECSYS_[A-Z_]+\b", page.read_text())):
        assert name in known, f"{page.name}: {name}"


def test_named_paths_exist(page: Path) -> None:
    for code in CODE.findall(FENCE.sub("", page.read_text())):
        path = code.split("::")[0].rstrip("/")
        if path.split("/")[0] in TOP_LEVEL and "/" in path and re.fullmatch(r"[\w./-]+", path):
            assert (ROOT / path).exists(), f"{page.name}: `{code}`"


def test_relative_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: ({target})"


def test_every_setting_is_in_the_operations_page() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    missing = [f.alias for f in Settings.model_fields.values() if f"`{f.alias}`" not in text]
    assert not missing


def test_continuous_integration_runs_what_exists() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    assert ".ci/run" in commands
    for command in commands + (ROOT / ".ci/run").read_text().splitlines():
        if match := re.match(r"make ([a-z][a-z0-9-]*)", command):
            assert match[1] in _make_targets(), command
    gate = [command for command in commands if command.startswith("make bench-smoke")]
    assert len(gate) == 1 and "--base origin/" in gate[0]
