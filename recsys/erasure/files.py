"""What of a user lies in files of the state folder beside the event log.

Two folders hold work in progress, made from the event log and made again from it: what training and
its pipeline prepared, and the log a backfill laid out. They cannot be searched by user, so they go
as a whole. Other Parquet tables, such as those Feast's
``offline_write_batch`` writes, lose the user's rows.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.errors import ConfigurationError
from recsys.events.durable_files import write_durably
from recsys.features.backfill import views_folder, work_folder

_OTHERS = frozenset(
    # erased by whoever owns them, or whole states of their own
    ("event_log", "redis", "kafka", "triton", "run", "training", "demo", "backfill",
     "backfill-views", "bundles", "model_repository", "pipeline", "mlflow")
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Parquet files that have a ``user_id``."""

    num_files: int
    num_rows: int
    """Of the user."""


def work_folders(state_dir: Path) -> list[Path]:
    """Give the folders of work in progress that are there."""
    folders = (training_folder(state_dir), work_folder(state_dir), views_folder(state_dir))
    return [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]


def training_folder(state_dir: Path) -> Path:
    """Give where interrupted training runs leave what they prepared and their checkpoints."""
    return state_dir / "training"


def remove_folder(folder: Path) -> None:
    """Remove a folder with all it holds.

    Raises:
        ConfigurationError: when something in it cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: wanted to remove it, found: {error.strerror or error}; give this user the "
            "right to it and run the command again"
        ) from error


def tables_with(state_dir: Path, user_id: str) -> Tables:
    """Count the user's rows in Parquet tables of the state folder.

    Raises:
        ConfigurationError: when a table cannot be read.
    """
    num_files = num_rows = 0
    for path in _tables(state_dir):
        num_files += 1
        num_rows += _rows_of(path, user_id)
    return Tables(num_files=num_files, num_rows=num_rows)


def erase_from_tables(state_dir: Path, user_id: str) -> None:
    """Remove the user's rows from those tables, each in one rename.

    Raises:
        ConfigurationError: when a table cannot be read or written.
    """
    for path in _tables(state_dir):
        if _rows_of(path, user_id):
            data = io.BytesIO()
            try:
                frame = pl.read_parquet(path, hive_partitioning=False)
                frame.filter(pl.col("user_id").ne_missing(user_id)).write_parquet(data)
                write_durably(path, data.getvalue())
            except (OSError, pl.exceptions.PolarsError) as error:
                raise _unusable(path, error) from error


def _tables(state_dir: Path) -> Iterator[Path]:
    for path in sorted(state_dir.rglob("*.parquet")):
        if path.relative_to(state_dir).parts[0] in _OTHERS or not path.is_file():
            continue
        try:
            if pl.read_parquet_schema(path).get("user_id") == pl.String():
                yield path
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _unusable(path, error) from error


def _rows_of(path: Path, user_id: str) -> int:
    try:
        rows = pl.scan_parquet(path, hive_partitioning=False)
        return rows.filter(pl.col("user_id") == user_id).select("user_id").collect().height
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: wanted to look for the user's rows in it, found: {error}; repair or remove it "
        "and run the command again"
    )
