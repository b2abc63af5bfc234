"""What steps left behind: a folder for each key, whole and checksummed, or not there at all.

::

    <folder>/<step>/<key>/…files…, output.json
    <folder>/<step>/.making-<key>/     of a step at work or killed: it begins with an empty one
    <folder>/<step>/.scratch-<key>/    what a killed step finds again: checkpoints

A key is a hash of all a step depends on, so what lies under it need never be made again. One
process at a time may write (``one_run.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.events.durable_files import make_directory, sync_directory, write_durably

OUTPUT_FILE = "output.json"
_MAKING, _SCRATCH, _DAMAGED = ".making-", ".scratch-", ".damaged-"


@dataclass(frozen=True, kw_only=True)
class Output:
    """A finished output."""

    step: str
    key: str
    path: Path
    digest: str
    """Hash of its files: what comes after depends on this, not on how it was made."""


class DamagedError(Exception):
    """An output is not what was written; the message names the file and the difference."""


class Outputs:
    """All outputs of one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, step: str, key: str) -> Output | None:
        """Give an output; None when there is none.

        Raises:
            DamagedError: when it is there, but a file is missing or changed. It was set aside, so
                that it will be made again.
        """
        path = self.folder / step / key
        if not path.is_dir():
            return None
        try:
            return Output(step=step, key=key, path=path, digest=_verified(path))
        except DamagedError:
            path.rename(path.with_name(f"{_DAMAGED}{key}-{uuid.uuid4().hex[:8]}"))
            raise

    @contextmanager
    def making(self, step: str, key: str) -> Iterator[Path]:
        """Give an empty folder to fill; it becomes the output when the block ends well."""
        final = self.folder / step / key
        making = final.with_name(_MAKING + key)
        shutil.rmtree(making, ignore_errors=True)
        make_directory(making)
        yield making
        files = _checksums(making, sync=True)
        document = {"step": step, "key": key, "files": files}
        write_durably(making / OUTPUT_FILE, json.dumps(document, indent=1).encode())
        making.rename(final)
        sync_directory(final.parent)
        shutil.rmtree(self.scratch(step, key), ignore_errors=True)

    def remove(self, output: Output) -> None:
        """Remove an output, in one step as others see it."""
        gone = output.path.with_name(f"{_DAMAGED}{output.key}-{uuid.uuid4().hex[:8]}")
        output.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def scratch(self, step: str, key: str) -> Path:
        """Give the folder where a step keeps what it wants to find again when it was killed."""
        return self.folder / step / (_SCRATCH + key)

    def prune(self, keep: Collection[tuple[str, str]]) -> int:
        """Remove outputs other than ``keep`` (step, key), leftovers too; give how many went."""
        removed = 0
        for path in self.folder.glob("*/*"):
            key = path.name
            for prefix in (_MAKING, _SCRATCH):
                key = key.removeprefix(prefix)
            if (path.parent.name, key) not in keep:
                shutil.rmtree(path, ignore_errors=True)
                removed += 1
        return removed


def key_of(parts: Mapping[str, Any]) -> str:
    """Give the key of a step: a hash of everything named in ``parts`` (plain JSON values)."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _checksums(folder: Path, *, sync: bool) -> dict[str, dict[str, Any]]:
    """Give size and hash by file; with ``sync`` all of it outlives a power cut afterwards."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            if sync:
                sync_directory(path)
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if sync:
                os.fsync(file.fileno())
        found[str(path.relative_to(folder))] = {"sha256": digest, "size": path.stat().st_size}
    if sync:
        sync_directory(folder)
    return found


def _verified(path: Path) -> str:
    """Compare a folder with its ``output.json`` and give the digest."""
    try:
        wanted = json.loads((path / OUTPUT_FILE).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: {OUTPUT_FILE} cannot be read ({error})") from error
    found = _checksums(path, sync=False)
    found.pop(OUTPUT_FILE, None)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise DamagedError(
                f"{path / name}: wanted {_said(wanted.get(name))}, found {_said(found.get(name))}"
            )
    return key_of(wanted)


def _said(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "no such file"
    return f"{entry['size']} bytes with sha256 {str(entry['sha256'])[:12]}…"
