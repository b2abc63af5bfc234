from __future__ import annotations

from pathlib import Path

import pytest

from recsys.datasets.download import is_present
from recsys.datasets.load import load_mapping, parse_mapping
from recsys.datasets.mapping import DatasetMapping
from recsys.settings import Settings

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def shop() -> DatasetMapping:
    return load_mapping(FIXTURES / "shop" / "mapping.toml")


@pytest.fixture
def no_data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def small(folder: Path, text: str) -> DatasetMapping:
    """A mapping whose files lie in ``folder``."""
    return parse_mapping(f'name = "small"\nfolder = "{folder}"\n{text}')


def real(name: str) -> tuple[DatasetMapping, Path]:
    """A worked mapping and the data folder, when its files are there."""
    data_dir = Settings().data_dir
    mapping = load_mapping(name)
    if not is_present(mapping, data_dir):
        pytest.skip(f"{name} is not under RECSYS_DATA_DIR ({data_dir})")
    return mapping, data_dir
