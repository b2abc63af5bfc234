"""docs/data.md shows what really runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from recsys.datasets import cli
from recsys.datasets.check import MEANINGS
from recsys.datasets.mapping import DatasetMapping
from recsys.datasets.mapping_use import CheckName
from recsys.settings import Settings
from tests.datasets.conftest import FIXTURES

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def test_the_page_shows_the_tested_mapping() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert blocks == [(FIXTURES / "shop" / "mapping.toml").read_text()]


def test_every_check_and_every_part_of_a_mapping_is_named() -> None:
    assert set(MEANINGS) == set(get_args(CheckName))
    for check in MEANINGS:
        assert f"`{check}`" in PAGE
    for part in set(DatasetMapping.model_fields) - {"title", "licence", "notes", "tables", "check"}:
        assert re.search(rf"`\[*{part}\b", PAGE), part


def test_the_commands_of_the_page_exist(tmp_path: Path) -> None:
    commands = set(re.findall(r"recsys data (\w+)", PAGE))
    assert commands == {"ls", "download", "check"}
    assert cli.main(["ls"], settings=Settings(data_dir=tmp_path)) == 0
