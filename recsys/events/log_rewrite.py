"""Replacing what lies under a range of the event log: compaction, expiry and erasure.

New files are written beside the old ones, then one rename of the commit switches from these to
those. Killed before it, nothing has changed; killed after it, the old files are leftovers
(``log_sweep.py``). One rewriter works on a topic at a time; sinks, which only add ranges at the
end, write on meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import polars as pl

from recsys.errors import ConfigurationError
from recsys.events.durable_files import make_directory, write_durably
from recsys.events.log_files import (
    COMMITS,
    Commit,
    Committed,
    Part,
    commit_path,
    commits,
    part_name,
    part_path,
)
from recsys.events.log_format import parquet_of


class RewriterBusyError(ConfigurationError):
    """Another process rewrites the topic: try again when it is done."""


@contextlib.contextmanager
def rewriting(log_dir: Path, topic: str) -> Iterator[None]:
    """Keep every other rewriter of the topic out.

    Raises:
        ConfigurationError: when the topic was never written.
        RewriterBusyError: when another one works.
    """
    folder = log_dir / topic / COMMITS
    if not folder.is_dir():
        raise ConfigurationError(f"wanted the event log of {topic} in {log_dir}, found none")
    with (folder / ".rewrite").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RewriterBusyError(
                f"{topic}: wanted to rewrite its log alone, found another process compacting, "
                "expiring or erasing; try again when it is done"
            ) from error
        yield


def write_part(
    log_dir: Path, topic: str, partition: int, first: int, date: str, frame: pl.DataFrame
) -> Part:
    """Write rows of one date as a file that does not count yet."""
    data = parquet_of(frame)
    name = part_name(topic, partition, first, uuid.uuid4().hex[:12])
    part = Part.of(data, date=date, name=name, rows=len(frame))
    path = part_path(log_dir, topic, part)
    make_directory(path.parent)
    write_durably(path, data)
    return part


def read_part(log_dir: Path, topic: str, part: Part) -> pl.DataFrame:
    """Read a file back, all its columns.

    Raises:
        ConfigurationError: when it is not as it was written; it must not be built upon.
    """
    path = part_path(log_dir, topic, part)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(
            f"wanted {path}, found no such file; see `recsys log verify`"
        ) from None
    if len(data) != part.size or zlib.crc32(data) != part.crc32:
        raise ConfigurationError(
            f"{path}: wanted {part.size} bytes with checksum {part.crc32}, found {len(data)} with "
            f"{zlib.crc32(data)}; see `recsys log verify`"
        )
    return pl.read_parquet(data, hive_partitioning=False)


def replace(log_dir: Path, topic: str, old: Iterable[Committed], new: Commit) -> None:
    """Put ``new`` in the place of ``old``, which follow on each other, in one step.

    Raises:
        ConfigurationError: when one of ``old`` is not there any more as it was read.
    """
    covered = list(old)
    if not set(_known(covered)) <= set(_known(commits(log_dir, topic))):
        raise ConfigurationError(
            f"{topic}: wanted to replace a range from {covered[0].range.first} on, found that "
            "another process did (on another machine, where our lock is not seen); try again"
        )
    kept = {part.place for part in new.parts}
    for one in covered:
        paths = [commit_path(log_dir, topic, one.range.partition, one.range.first)]
        paths += [
            part_path(log_dir, topic, part) for part in one.commit.parts if part.place not in kept
        ]
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)  # for whoever reads it now it stays a while from now on
    begin = covered[0].range
    write_durably(
        commit_path(log_dir, topic, begin.partition, begin.first), msgspec.json.encode(new)
    )


def _known(some: Iterable[Committed]) -> Iterator[bytes]:
    return (msgspec.json.encode(one) for one in some)
