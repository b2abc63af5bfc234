"""Files as Polars frames: only the columns a mapping uses, with the row each value came from."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from recsys.datasets import conditions
from recsys.datasets.mapping import DatasetMapping
from recsys.datasets.mapping_tables import Table
from recsys.errors import MappingError

FILE_COLUMN = "__file"
"""Index into ``table_files``."""
ROW_COLUMN = "__row"
"""1-based data row of the file (a CSV header is not counted); for JSON lines, the line."""

_SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
_MAX_NAMED_COLUMNS = 30


def table_files(mapping: DatasetMapping, name: str, data_dir: Path) -> list[Path]:
    """Give the files of a table, in name order per pattern.

    Raises:
        MappingError: when a pattern matches nothing.
    """
    folder = mapping.data_folder(data_dir)
    files: list[Path] = []
    for pattern in mapping.tables[name].file:
        is_glob = any(sign in pattern for sign in "*?[")
        found = sorted(folder.glob(pattern)) if is_glob else [folder / pattern]
        if not found or not all(path.is_file() for path in found):
            get = (
                f"run `recsys data download {mapping.name}`, or put it there by hand"
                if mapping.download
                else "put it there, or set RECSYS_DATA_DIR or the mapping's `folder`"
            )
            raise MappingError(
                f"data set {mapping.name!r}: no file {folder / pattern}; {get}",
                field=f"tables.{name}.file",
            )
        files += found
    return files


def read_table(
    mapping: DatasetMapping, name: str, data_dir: Path, *, columns: Collection[str],
    text_columns: Collection[str],
) -> pl.DataFrame:  # fmt: skip
    """Read ``columns`` of a table, keep the rows its ``where`` wants, add its constants.

    ``text_columns`` of a CSV are read as text whatever they look like, so that an id ``00123``
    keeps its zeros. Two more columns say where a row came from: ``FILE_COLUMN``, ``ROW_COLUMN``.

    Raises:
        MappingError: when a file or column is missing, or a file cannot be read.
    """
    table = mapping.tables[name]
    parsed = [conditions.parse(text) for text in table.where]
    wanted = {*columns, *(condition.column for condition in parsed)} - set(table.constants)
    frames = []
    for index, path in enumerate(table_files(mapping, name, data_dir)):
        frame = _read_file(table, name, path, sorted(wanted), text_columns)
        frames.append(
            frame.with_row_index(ROW_COLUMN, offset=1).with_columns(
                pl.lit(index, pl.UInt32).alias(FILE_COLUMN)
            )
        )
    frame = pl.concat(frames, how="vertical_relaxed") if len(frames) > 1 else frames[0]
    frame = frame.with_columns(pl.lit(v).alias(k) for k, v in table.constants.items())
    return keep(frame, parsed)


def keep(frame: pl.DataFrame, parsed: list[conditions.Condition]) -> pl.DataFrame:
    """Give the rows for which every condition holds."""
    for condition in parsed:
        frame = frame.filter(condition.expression(frame.schema[condition.column]))
    return frame


def _read_file(
    table: Table, name: str, path: Path, wanted: list[str], text_columns: Collection[str]
) -> pl.DataFrame:
    kind = table.format or _format_of(path, name)
    readers: Mapping[str, Callable[[], pl.DataFrame]] = {
        "csv": lambda: _read_csv(table, name, path, wanted, text_columns),
        "parquet": lambda: _read_parquet(name, path, wanted),
        "jsonl": lambda: _read_jsonl(table, name, path, wanted),
    }
    try:
        return readers[kind]()
    except MappingError:
        raise
    except (pl.exceptions.PolarsError, OSError, EOFError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise MappingError(
            f"table {name!r}: {path} cannot be read as {kind}: {reason}", field=f"tables.{name}"
        ) from error


def _format_of(path: Path, name: str) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise MappingError(
            f"table {name!r}: the format of {path.name} is not told by its suffix; "
            f'set tables.{name}.format to "csv", "parquet" or "jsonl"',
            field=f"tables.{name}.format",
        )
    return kind


def _require(name: str, path: Path, wanted: list[str], found: Collection[str]) -> None:
    missing = [column for column in wanted if column not in found]
    if missing:
        shown = ", ".join(list(found)[:_MAX_NAMED_COLUMNS])
        raise MappingError(
            f"table {name!r}: {path.name} has no column {', '.join(map(repr, missing))} "
            f"(found {shown}); correct the mapping or the file",
            field=f"tables.{name}",
        )


def _read_csv(
    table: Table, name: str, path: Path, wanted: list[str], text_columns: Collection[str]
) -> pl.DataFrame:
    separator = "\t" if ".tsv" in path.suffixes and table.separator == "," else table.separator
    header = pl.read_csv(path, separator=separator, n_rows=0).columns
    _require(name, path, wanted, header)
    return pl.read_csv(
        path,
        separator=separator,
        columns=wanted,
        null_values=table.null_values,
        infer_schema_length=10_000,
        schema_overrides={column: pl.String for column in text_columns if column in wanted},
    ).select(wanted)


def _read_parquet(name: str, path: Path, wanted: list[str]) -> pl.DataFrame:
    _require(name, path, wanted, pl.read_parquet_schema(path))
    return pl.read_parquet(path, columns=wanted)


def _read_jsonl(table: Table, name: str, path: Path, wanted: list[str]) -> pl.DataFrame:
    # Decoded line by line and only the wanted paths kept: lines may be of several kinds whose
    # fields of one name have different types, which no columnar JSON reader accepts.
    pairs = frozenset(table.pairs)
    paths = [tuple(column.split(".")) for column in wanted]
    values: list[list[Any]] = [[] for _ in wanted]
    decode = msgspec.json.Decoder().decode
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    with opener(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                document = decode(line) if line.strip() else {}
            except msgspec.DecodeError as error:
                raise MappingError(
                    f"table {name!r}: {path} line {number} is no JSON: {error}",
                    field=f"tables.{name}",
                ) from None
            if not isinstance(document, dict):
                raise MappingError(
                    f"table {name!r}: {path} line {number} is no JSON object",
                    field=f"tables.{name}",
                )
            for pair in pairs:
                if isinstance(document.get(pair), list):
                    document[pair] = {
                        e["name"]: e.get("value") for e in document[pair] if "name" in e
                    }
            for column, parts in zip(values, paths, strict=True):
                column.append(_at(document, parts))
    if number:
        present = [c for c, v in zip(wanted, values, strict=True) if any(x is not None for x in v)]
        _require(name, path, wanted, present)
    return pl.DataFrame(
        [
            pl.Series(column, _one_type(collected), strict=False)
            for column, collected in zip(wanted, values, strict=True)
        ]
    )


def _at(value: Any, parts: tuple[str, ...]) -> Any:
    for index, part in enumerate(parts):
        if isinstance(value, list):
            return [_at(element, parts[index:]) for element in value]
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _one_type(values: list[Any]) -> list[Any]:
    types = {type(value) for value in values if value is not None}
    if str in types and types & {int, float, bool}:
        return [
            value if value is None or isinstance(value, str) else str(value) for value in values
        ]
    if list in types and len(types) > 1:
        return [value if value is None or isinstance(value, list) else [value] for value in values]
    return values
