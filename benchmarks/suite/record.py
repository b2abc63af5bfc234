"""The file of one result: what was printed, and all that it takes to measure it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from recsys.errors import InputError


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's result as it is committed."""

    schema: str = "recsys-benchmark/1"
    benchmark: str
    command: str
    """As of the repository's root, with its interpreter."""
    commit: str
    """With ``+`` where files differed from it."""
    date: str
    started_at: str
    """UTC, ISO 8601."""
    took_s: float
    seed: int | None
    """None where nothing is drawn."""
    machine: dict[str, Any]
    versions: dict[str, str]
    result: dict[str, Any]


def path_of(folder: Path, benchmark: str) -> Path:
    """Give where a benchmark's record lies in the folder of a day."""
    return folder / f"{benchmark}.json"


def write(folder: Path, record: Record) -> Path:
    """Write it whole or not at all, over one of the same benchmark."""
    path = path_of(folder, record.benchmark)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return path


def read(path: Path) -> Record:
    """Read one. Raises InputError where it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            f"wanted a benchmark's result in {path.name}, found: {error}; remove the file and run "
            "`make bench` again"
        ) from error


def is_done(folder: Path, benchmark: str, command: str, commit: str) -> bool:
    """Whether this very measurement lies there already.

    Files that differ from their commit may differ otherwise by now, so such a result does not
    count. Raises InputError for a file that is no result.
    """
    path = path_of(folder, benchmark)
    if not path.exists() or commit.endswith("+") or not commit:
        return False
    found = read(path)
    return (found.command, found.commit) == (command, commit)
