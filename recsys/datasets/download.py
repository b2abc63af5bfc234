"""Fetch a data set from its publisher: time-outs, checksum, resume, and never half a file.

A download grows in ``NAME.part`` and gets its name in one step when its size and SHA-256 are right.
An interrupted one is taken up where it stopped when the checksum is known (otherwise nobody could
tell whether the two halves belong together). Files a person put in the folder are used as they are.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from recsys.datasets import publishers
from recsys.datasets.mapping import DatasetMapping, Download
from recsys.datasets.readers import table_files
from recsys.errors import ConfigurationError, MappingError

Progress = Callable[[int, int | None], None]
"""Called with bytes so far and, when known, in all."""


@dataclass(frozen=True, kw_only=True)
class DownloadLimits:
    """How long to wait."""

    connect_s: float = 15.0
    """For the publisher to answer at all."""
    read_s: float = 30.0
    """For the next bytes."""
    total_s: float = 1800.0
    """For the whole file: 47 MB at 30 kB/s."""


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """What ``download`` did."""

    folder: Path
    archive: Path | None
    """The publisher's file; None when the tables were there already."""
    sha256: str | None
    fetched: bool
    """False when nothing came over the network."""


def is_present(mapping: DatasetMapping, data_dir: Path) -> bool:
    """Tell whether all files of the data set are there."""
    try:
        for name in mapping.tables:
            table_files(mapping, name, data_dir)
    except MappingError:
        return False
    return True


def download(
    mapping: DatasetMapping,
    data_dir: Path,
    *,
    limits: DownloadLimits | None = None,
    progress: Progress | None = None,
) -> Downloaded:
    """Put a data set's tables in its folder. Does nothing when they are there.

    The publisher's file is fetched unless it lies in the folder already, checked, and converted.

    Raises:
        ConfigurationError: no connection, wrong checksum, truncated body, time out, a file of
            another layout, or a folder that cannot be written. One line; says what to do by hand.
    """
    folder = mapping.data_folder(data_dir)
    if is_present(mapping, data_dir):
        return Downloaded(folder=folder, archive=None, sha256=None, fetched=False)
    offer = mapping.download
    if offer is None:
        raise ConfigurationError(
            f"data set {mapping.name!r} has no [download]; put its files into {folder} by hand"
        )
    archive = folder / offer.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fetched = not archive.is_file()
        if fetched:
            sha256 = fetch(
                offer, archive, limits=limits or DownloadLimits(), progress=progress,
                name=mapping.name,
            )  # fmt: skip
        else:
            sha256 = _sha256(archive)
            _check(offer, archive, sha256, name=mapping.name)
        if offer.convert is not None:
            publishers.CONVERTERS[offer.convert](archive, folder)
    except OSError as error:
        raise ConfigurationError(
            f"data set {mapping.name!r}: cannot write into {folder}: {error.strerror or error}; "
            "set RECSYS_DATA_DIR to a folder you may write"
        ) from error
    if not is_present(mapping, data_dir):
        raise ConfigurationError(
            f"data set {mapping.name!r}: {offer.file} was read but does not give all of its "
            "tables; correct [download] in the mapping"
        )
    return Downloaded(folder=folder, archive=archive, sha256=sha256, fetched=fetched)


def fetch(
    offer: Download, target: Path, *, limits: DownloadLimits, name: str,
    progress: Progress | None = None,
) -> str:  # fmt: skip
    """Fetch ``offer.url`` to ``target`` in one step; give its SHA-256.

    Raises:
        ConfigurationError: see ``download``.
    """
    part = target.with_name(target.name + ".part")
    if offer.sha256 is None:
        part.unlink(missing_ok=True)
    try:
        _fetch_rest(offer.url, part, limits=limits, progress=progress)
    except httpx.HTTPError as error:
        raise ConfigurationError(_by_hand(offer, target, name, _reason(error))) from error
    sha256 = _sha256(part)
    try:
        _check(offer, part, sha256, name=name, final=target)
    except ConfigurationError:
        # Too short may be taken up again; anything else can only be fetched anew.
        if offer.size_bytes is None or part.stat().st_size >= offer.size_bytes:
            part.unlink()
        raise
    os.replace(part, target)  # noqa: PTH105  one atomic step
    return sha256


def _fetch_rest(url: str, part: Path, *, limits: DownloadLimits, progress: Progress | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "recsys-data"}
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = httpx.Timeout(limits.read_s, connect=limits.connect_s)
    deadline = time.monotonic() + limits.total_s
    with (
        httpx.Client(follow_redirects=True, timeout=timeout) as client,
        client.stream("GET", url, headers=headers) as answer,
    ):
        if have and answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # All of it was there; the checksum decides.
        answer.raise_for_status()
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None and length.isdigit() else None
        with part.open("ab" if have else "wb") as out:
            # Pieces as they come: gathered into larger ones, the last would be lost with the line.
            for chunk in answer.iter_raw():
                out.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"no end after {limits.total_s:g} s")


def _check(
    offer: Download, path: Path, sha256: str, *, name: str, final: Path | None = None
) -> None:
    final = final or path
    size = path.stat().st_size
    if offer.size_bytes is not None and size < offer.size_bytes:
        problem = f"got {size:,} of {offer.size_bytes:,} bytes (truncated)"
    elif offer.sha256 is not None and sha256 != offer.sha256:
        problem = f"wanted sha256 {offer.sha256}, found {sha256} ({size:,} bytes)"
    else:
        return
    raise ConfigurationError(_by_hand(offer, final, name, problem))


def _by_hand(offer: Download, target: Path, name: str, problem: str) -> str:
    return (
        f"data set {name!r}: wanted {offer.url}, {problem}; run `recsys data download {name}` "
        f"again, or fetch it elsewhere{f' (see {offer.page})' if offer.page else ''}, put it at "
        f"{target.absolute()} and run the same command"
    )


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"the server answered {error.response.status_code}"
    if isinstance(error, httpx.TimeoutException):
        return f"timed out ({type(error).__name__})"
    if isinstance(error, httpx.ConnectError):
        return f"no connection ({error})"
    return f"the transfer broke off ({error})"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
