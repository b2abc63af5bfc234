"""Makes a set of examples, or finds the one there is; what is missing or damaged is made again.

A set is made in a folder of its own and gets its name by one rename. Shards that were finished when
a run was killed are found and kept. Of several that make the same set at once, one works and the
others wait for it (a lock file that falls with its process).
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.errors import ConfigurationError
from recsys.events.durable_files import make_directory, sync_directory
from training.examples import lists, visits
from training.examples.identity import content_hash
from training.examples.making import MakeParts, make_here
from training.examples.partitions import write_parts
from training.examples.shards import (
    ExampleSet,
    Shard,
    damaged,
    read_entry,
    read_manifest,
    write_manifest,
)
from training.examples.visits import VisitTask, make_visits, shard_name
from training.rounds import QuestionRound

KEPT_SETS = 2
"""Sets that stay in a folder; older ones go when a new one is made."""
_USE_FILE = "in_use"
_IN_USE: dict[Path, int] = {}
"""Descriptors whose locks fall with this process."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where sets are kept, and who makes their shards."""

    root: Path
    make: MakeParts = make_here


def temporary_place() -> Place:
    """Give a place that is removed when this process ends."""
    root = Path(tempfile.mkdtemp(prefix="recsys-examples-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Place(root=root)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be made."""

    made_from: dict[str, str]
    """Names it (``identity.parts_of``)."""
    log: pl.LazyFrame
    num_parts: int
    task: Callable[[Path, Path], VisitTask]
    """Gives what makes visits, from the folders of the cut log and of the shards."""
    rounds: Callable[[], Sequence[QuestionRound]]
    """Makes the ranker's rounds."""


def build(order: Order, place: Place) -> ExampleSet:
    """Give the set that ``order`` names, whole: the one that is there, repaired, or a new one.

    Raises:
        InputError: when the data cannot be learned from (``checks.py``).
        ConfigurationError: when the folder cannot be written.
    """
    name = content_hash(order.made_from)
    folder = place.root / name
    try:
        make_directory(place.root)
        with _alone(place.root / f".{name}.lock"):
            found = read_manifest(folder)
            if found is not None and found.made_from != order.made_from:
                logger.warning(
                    "examples of other data lie under this name, they are made again",
                    extra={"folder": str(folder), "found": found.content_hash},
                )
                found = None
            if found is not None:
                wrong = damaged(found)
                return _repaired(found, wrong, order, place) if wrong else _used(found)
            return _made(folder, name, order, place)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: wanted to write examples, found: {error.strerror or error}; free some "
            "space, or set RECSYS_STATE_DIR to a folder that can be written, and run it again"
        ) from error


def _made(folder: Path, name: str, order: Order, place: Place) -> ExampleSet:
    if folder.is_dir():  # without a manifest: nobody can say what it was
        shutil.rmtree(folder)
    work = place.root / f".{name}.work"
    make_directory(work)
    told = (path.name.removesuffix(".json") for path in work.glob("*.parquet.json"))
    kept = {shard for shard in told if read_entry(work, shard) is not None}
    if kept:
        logger.warning("examples of a run that was killed are kept", extra={"shards": len(kept)})
    shards = _make(work, order, place, lambda shard: shard not in kept)
    made = ExampleSet(
        folder=work, content_hash=name, made_from=order.made_from, shards=tuple(shards)
    )
    write_manifest(made)
    work.rename(folder)
    sync_directory(place.root)
    _forget_old(place.root, name)
    return _used(
        ExampleSet(folder=folder, content_hash=name, made_from=order.made_from, shards=made.shards)
    )


def _repaired(found: ExampleSet, wrong: list[str], order: Order, place: Place) -> ExampleSet:
    logger.warning(
        "example shards are made again",
        extra={"folder": str(found.folder), "shards": wrong, "of": len(found.shards)},
    )
    shards = _make(found.folder, order, place, lambda shard: shard in wrong)
    repaired = ExampleSet(
        folder=found.folder, content_hash=found.content_hash, made_from=found.made_from,
        shards=tuple(shards),
    )  # fmt: skip
    write_manifest(repaired)
    return _used(repaired)


def _make(
    folder: Path, order: Order, place: Place, is_wanted: Callable[[str], bool]
) -> list[Shard]:
    """Make the wanted shards; give the entries of all."""
    names = [shard_name(part) for part in range(order.num_parts)]
    wanted = [part for part, name in enumerate(names) if is_wanted(name)]
    if wanted:
        cut = folder / "log"
        shutil.rmtree(cut, ignore_errors=True)
        write_parts(order.log, cut, order.num_parts)
        task_file = folder / "task.pickle"
        order.task(cut, folder).save(task_file)
        place.make(make_visits, task_file, wanted)
        shutil.rmtree(cut)
        task_file.unlink()
    entries = [_entry(folder, name) for name in names]
    before = read_manifest(folder)
    told = before.shards if before is not None else ()
    files = [shard.name for shard in told if not shard.name.startswith(visits.PREFIX)]
    if before is None or any(is_wanted(name) for name in files):
        files = []
        for number, question in enumerate(order.rounds()):
            files += lists.write_round(folder, number, question, is_wanted)
    return entries + [_entry(folder, name) for name in sorted(files)]


def _entry(folder: Path, name: str) -> Shard:
    entry = read_entry(folder, name)
    if entry is None:
        raise ConfigurationError(
            f"{folder / name}: the shard was written, and is not what was written; look at the "
            "disk and run it again"
        )
    return entry


def _used(found: ExampleSet) -> ExampleSet:
    """Say that a set is used, and keep others from removing it while this process lives."""
    os.utime(found.folder)
    if found.folder not in _IN_USE:
        lock = os.open(found.folder / _USE_FILE, os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_SH)
        _IN_USE[found.folder] = lock
    return found


def _is_used(folder: Path) -> bool:
    try:
        with (folder / _USE_FILE).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _forget_old(root: Path, name: str) -> None:
    """Remove sets that were not used for longest, and what killed runs of them left."""
    sets = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    sets.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in sets[KEPT_SETS:]:
        if old.name != name and not _is_used(old):
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that falls with the process."""
    with path.open("w") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    logger.warning("another run makes the same examples: waiting for it")
                    told = True
                time.sleep(0.1)
        yield
