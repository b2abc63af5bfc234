"""A set of example shards: files with a checksum each, and the manifest that lists them.

``<root>/<content hash>/manifest.json`` beside its shards. The manifest is written last, so that a
folder with one was once whole; each file is looked at again whenever the set is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recsys.errors import InputError
from recsys.events.durable_files import write_durably

MANIFEST_FILE = "manifest.json"
FORMAT = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file."""

    name: str
    num_rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExampleSet:
    """A whole set: made, or opened and found whole."""

    folder: Path
    content_hash: str
    """Sixteen hex digits over inputs, definitions and code (``identity.py``)."""
    shards: tuple[Shard, ...]
    made_from: dict[str, str]
    """What the content hash is over, by name."""

    def named(self, prefix: str) -> tuple[Shard, ...]:
        """Give the shards of one table, in order."""
        return tuple(shard for shard in self.shards if shard.name.startswith(prefix))

    @property
    def num_rows(self) -> int:
        """Over all shards."""
        return sum(shard.num_rows for shard in self.shards)


def write_shard(folder: Path, name: str, data: bytes, num_rows: int) -> Shard:
    """Write one shard durably, and beside it what it must be."""
    write_durably(folder / name, data)
    shard = Shard(
        name=name, num_rows=num_rows, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    write_durably(folder / f"{name}.json", json.dumps(asdict(shard)).encode())
    return shard


def read_entry(folder: Path, name: str) -> Shard | None:
    """Give the entry of a shard that is there and whole; None when it must be made (again)."""
    try:
        shard = Shard(**json.loads((folder / f"{name}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return None if _wrong(folder, shard) else shard


def write_manifest(found: ExampleSet) -> None:
    """Write the manifest: the set is whole from here on."""
    text = json.dumps(
        {
            "format": FORMAT,
            "content_hash": found.content_hash,
            "made_from": found.made_from,
            "shards": [asdict(shard) for shard in found.shards],
        },
        indent=1,
    )
    write_durably(found.folder / MANIFEST_FILE, text.encode())


def read_manifest(folder: Path) -> ExampleSet | None:
    """Give a set as its manifest tells, files not looked at; None when there is none to read."""
    try:
        told = json.loads((folder / MANIFEST_FILE).read_bytes())
        if told["format"] != FORMAT:
            return None
        return ExampleSet(
            folder=folder,
            content_hash=told["content_hash"],
            made_from=told["made_from"],
            shards=tuple(Shard(**shard) for shard in told["shards"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "manifest of examples unreadable, they are made again",
            extra={"folder": str(folder), "error": str(error)},
        )
        return None


def damaged(found: ExampleSet) -> list[str]:
    """Give the names of shards that are missing or not what the manifest says, each said."""
    names = []
    for shard in found.shards:
        wrong = _wrong(found.folder, shard)
        if wrong:
            logger.warning(
                "example shard %s", wrong, extra={"folder": str(found.folder), "shard": shard.name}
            )
            names.append(shard.name)
    return names


def open_examples(folder: Path) -> ExampleSet:
    """Open a set and look at every file.

    Raises:
        InputError: when it is not whole; building it again makes what is wrong.
    """
    found = read_manifest(folder)
    if found is None:
        raise InputError(
            f"{folder}: wanted a set of examples, found no manifest; run the training again"
        )
    names = damaged(found)
    if names:
        raise InputError(
            f"{folder}: {len(names)} of {len(found.shards)} shards are missing or damaged "
            f"({', '.join(names[:3])}); run the training again, it makes these alone anew"
        )
    return found


def check_sums(folder: Path, shards: Sequence[Shard]) -> bool:
    """Tell whether every shard is what its entry says."""
    return not any(_wrong(folder, shard) for shard in shards)


def _wrong(folder: Path, shard: Shard) -> str | None:
    try:
        with (folder / shard.name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    return None if found == shard.sha256 else "damaged: its checksum does not fit"
