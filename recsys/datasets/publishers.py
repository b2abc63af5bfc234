"""What publishers distribute, as the tables our mappings read.

A converter takes the publisher's file and writes Parquet tables into the data set's folder, each in
one step. It refuses a file of another layout, so that a changed publication is noticed.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import polars as pl

from recsys.errors import ConfigurationError

_RETAIL_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "InvoiceNo": pl.String, "StockCode": pl.String, "Description": pl.String,
    "Quantity": pl.Int32, "InvoiceDate": pl.Datetime("ms"), "UnitPrice": pl.Float32,
    "CustomerID": pl.Int32, "Country": pl.String,
}  # fmt: skip
_KUAIRAND_FIRST_DAY = 20220425
_KUAIRAND_LAST_DAY = 20220508
_KUAIRAND_MEMBERS = {
    "log_standard_4_22_to_5_08_pure.csv": "log_standard_0425_0508.parquet",
    "user_features_pure.csv": "user_features.parquet",
    "video_features_basic_pure.csv": "video_features_basic.parquet",
}


def convert_online_retail(archive: Path, folder: Path) -> None:
    """Make purchases, items and users out of UCI's zip with ``Online Retail.xlsx``.

    Raises:
        ConfigurationError: when the file is no such zip.
    """
    with _unpacked(archive, [".xlsx"]) as files:
        rows = read_online_retail(files[".xlsx"])
    for name, frame in clean_online_retail(rows).items():
        _write(frame, folder / f"{name}.parquet")


def read_online_retail(workbook: Path) -> pl.DataFrame:
    """Give the eight columns of the workbook as the publisher's rows, in its order."""
    # Invoice numbers, codes and descriptions mix numbers and text; as text nothing is lost.
    mixed = dict.fromkeys(("InvoiceNo", "StockCode", "Description"), pl.String())
    rows = pl.read_excel(workbook, engine="calamine", schema_overrides=mixed)
    if set(rows.columns) != set(_RETAIL_COLUMNS):
        raise _other_layout(workbook.name, list(_RETAIL_COLUMNS), rows.columns)
    # Excel keeps a time as a fraction of days, so that 8:26 may come out as 8:25:59.999.
    minute = pl.col("InvoiceDate").cast(pl.Datetime("ms")).dt.round("1m")
    return rows.with_columns(minute).select(
        pl.col(name).cast(dtype) for name, dtype in _RETAIL_COLUMNS.items()
    )


def clean_online_retail(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Keep real purchases of known customers; give ``interactions``, ``items`` and ``users``.

    Kept: a customer, quantity and price above 0, no cancelled invoice, a stock code that begins
    with five digits (others are postage, fees and tests). An item's description is its most
    frequent one (ties: the one seen first), its price the median; a user's country the last one.
    """
    kept = rows.filter(
        pl.col("CustomerID").is_not_null(),
        pl.col("Quantity") > 0,
        pl.col("UnitPrice") > 0,
        ~pl.col("InvoiceNo").str.starts_with("C"),
        pl.col("StockCode").str.contains(r"^\d{5}"),
    ).sort("InvoiceDate", maintain_order=True)
    interactions = kept.select(
        ts=pl.col("InvoiceDate").cast(pl.Datetime("ms")),
        user_id="CustomerID",
        item_id="StockCode",
        basket_id=pl.col("InvoiceNo").cast(pl.Int32),
        quantity="Quantity",
        unit_price="UnitPrice",
    )
    descriptions = (
        kept.drop_nulls("Description")
        .group_by("StockCode", "Description", maintain_order=True)
        .len()
        .sort("len", descending=True, maintain_order=True)
        .group_by("StockCode", maintain_order=True)
        .agg(pl.col("Description").first())
    )
    items = (
        kept.group_by(item_id="StockCode")
        .agg(median_price=pl.col("UnitPrice").median().cast(pl.Float32))
        .join(descriptions, left_on="item_id", right_on="StockCode", how="left")
        .select("item_id", pl.col("Description").alias("description"), "median_price")
        .sort("item_id")
    )
    users = (
        kept.group_by(user_id="CustomerID").agg(country=pl.col("Country").last()).sort("user_id")
    )
    return {"interactions": interactions, "items": items, "users": users}


def convert_kuairand_pure(archive: Path, folder: Path) -> None:
    """Make the log of 25 April to 8 May and both feature tables out of ``KuaiRand-Pure.tar.gz``.

    Exact duplicates of the log are dropped and it is sorted by time.

    Raises:
        ConfigurationError: when the file is no such archive.
    """
    with _unpacked(archive, list(_KUAIRAND_MEMBERS)) as files:
        for member, name in _KUAIRAND_MEMBERS.items():
            frame = pl.read_csv(files[member], infer_schema_length=None, null_values=[""])
            if member.startswith("log_"):
                frame = clean_kuairand_log(frame)
            elif "tag" in frame.columns:
                # Tags are codes joined by commas; a file of single tags would read as numbers.
                frame = frame.with_columns(pl.col("tag").cast(pl.String))
            _write(frame, folder / name)


def clean_kuairand_log(log: pl.DataFrame) -> pl.DataFrame:
    """Keep the days of the log that everybody can get, once each, in time order."""
    wanted = {"user_id", "video_id", "date", "time_ms", "is_click", "long_view", "play_time_ms"}
    if not wanted <= set(log.columns):
        raise _other_layout("the log", sorted(wanted), log.columns)
    days = pl.col("date").is_between(_KUAIRAND_FIRST_DAY, _KUAIRAND_LAST_DAY)
    once = log.filter(days).unique(maintain_order=True)
    return once.sort("time_ms", maintain_order=True)


CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "online_retail": convert_online_retail,
    "kuairand_pure": convert_kuairand_pure,
}


class _unpacked:  # noqa: N801  a context manager used like a function
    """Unpack the members whose names end as wanted into a temporary folder: ``{ending: path}``."""

    def __init__(self, archive: Path, endings: list[str]) -> None:
        self._archive = archive
        self._endings = endings
        # Beside the archive: a home folder may have room where /tmp has none.
        self._folder = tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpack-")

    def __enter__(self) -> dict[str, Path]:
        try:
            return self._unpack()
        except BaseException as error:
            self._folder.cleanup()
            if isinstance(error, zipfile.BadZipFile | tarfile.TarError | EOFError):
                raise ConfigurationError(
                    f"{self._archive} is no archive ({error}); remove it and download it again"
                ) from error
            raise

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _unpack(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        names: list[str] = []
        if zipfile.is_zipfile(self._archive):
            with zipfile.ZipFile(self._archive) as packed:
                for name in packed.namelist():
                    names.append(name)
                    self._keep(found, name, partial(packed.open, name))
        else:
            with tarfile.open(self._archive) as packed_tar:
                for member in packed_tar:
                    names.append(member.name)
                    if member.isfile():
                        self._keep(found, member.name, partial(packed_tar.extractfile, member))
        missing = [ending for ending in self._endings if ending not in found]
        if missing:
            raise _other_layout(self._archive.name, missing, names)
        return found

    def _keep(
        self, found: dict[str, Path], name: str, opener: Callable[[], IO[bytes] | None]
    ) -> None:
        for index, ending in enumerate(self._endings):
            if name.endswith(ending) and ending not in found:
                # Our own file names: an archive decides nothing about where files go.
                path = Path(self._folder.name) / f"{index}{Path(ending).suffix or ending}"
                source = opener()
                assert source is not None
                with source, path.open("wb") as out:
                    shutil.copyfileobj(source, out)
                found[ending] = path


def _other_layout(name: str, wanted: list[str], found: list[str]) -> ConfigurationError:
    return ConfigurationError(
        f"{name} is laid out differently: wanted {', '.join(wanted)}, found "
        f"{', '.join(found[:20]) or 'nothing'}; is it the publisher's file?"
    )


def _write(frame: pl.DataFrame, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    frame.write_parquet(part)
    os.replace(part, path)  # noqa: PTH105  one atomic step
