"""Where bundles lie, and which one is live.

``<bundle_dir>/<bundle_id>/`` never changes once it is there; ``live.json`` names the one in force.
Both appear by one rename after everything was flushed to disk, so a process killed at any
instruction leaves either the old state or the new one, at worst with an ``.incoming-…`` folder that
the next ``add`` clears away.
"""

from __future__ import annotations

import builtins
import json
import os
import shutil
import uuid
from pathlib import Path

from recsys.bundle.manifest import MANIFEST_FILE, Manifest, read_manifest, verify_files
from recsys.clock import HOUR_MS, now_ms
from recsys.errors import BundleError

LIVE_FILE = "live.json"
HISTORY_FILE = "activations.json"
_INCOMING = ".incoming-"
_MAX_HISTORY = 100


class BundleStore:
    """Bundles of one system."""

    def __init__(self, bundle_dir: Path) -> None:
        self.bundle_dir = bundle_dir

    def list(self) -> list[Manifest]:
        """Give the manifests of all readable bundles, newest first; a damaged one is left out."""
        if not self.bundle_dir.is_dir():
            return []
        found = []
        for folder in self.bundle_dir.iterdir():
            if folder.name.startswith(".") or not (folder / MANIFEST_FILE).is_file():
                continue
            try:
                found.append(read_manifest(folder))
            except BundleError:
                continue
        return sorted(found, key=lambda m: (m.created_ms, m.bundle_id), reverse=True)

    def path(self, bundle_id: str) -> Path:
        """Give the folder of a bundle.

        Raises:
            BundleError: when there is none of that id.
        """
        folder = self.bundle_dir / bundle_id
        if not bundle_id or bundle_id.startswith(".") or not (folder / MANIFEST_FILE).is_file():
            known = ", ".join(m.bundle_id for m in self.list()) or "none; run `recsys train`"
            raise BundleError(f"no bundle {bundle_id!r} in {self.bundle_dir} (found {known})")
        return folder

    def live(self) -> str | None:
        """Give the id of the bundle in force; None before the first activation.

        Raises:
            BundleError: when the pointer is damaged.
        """
        path = self.bundle_dir / LIVE_FILE
        try:
            return str(json.loads(path.read_bytes())["bundle_id"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"{path} is damaged ({error}); run `recsys bundle activate BUNDLE_ID`"
            ) from error

    def activate(self, bundle_id: str) -> None:
        """Make a bundle the live one. Its files are verified first."""
        folder = self.path(bundle_id)
        verify_files(folder, read_manifest(folder))
        history = [*self._history(), bundle_id]
        _replace_json(self.bundle_dir / HISTORY_FILE, history[-_MAX_HISTORY:])
        self._point_at(bundle_id)

    def rollback(self) -> str:
        """Make the bundle that was live before this one live again, and give its id.

        Raises:
            BundleError: when there was none, or it is gone or damaged.
        """
        live = self.live()
        history = self._history()
        while history and history[-1] == live:
            history.pop()
        if not history:
            raise BundleError(
                f"nothing to roll back to: {live!r} is the only bundle ever activated here"
            )
        previous = history[-1]
        folder = self.path(previous)
        verify_files(folder, read_manifest(folder))
        _replace_json(self.bundle_dir / HISTORY_FILE, history)
        self._point_at(previous)
        return previous

    def add(self, folder: Path) -> str:
        """Take in a finished bundle and give its id. Adding the same content again is harmless.

        Raises:
            BundleError: when its files do not fit its manifest.
        """
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
        self.bundle_dir.mkdir(parents=True, exist_ok=True)
        self._clear_incoming()
        target = self.bundle_dir / manifest.bundle_id
        if self._is_whole(target):
            return manifest.bundle_id
        incoming = self.bundle_dir / f"{_INCOMING}{uuid.uuid4().hex[:8]}"
        incoming.mkdir()
        for name in (*manifest.files, MANIFEST_FILE):
            (incoming / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, incoming / name)
            _sync(incoming / name)
        _sync(incoming)
        if target.exists():  # the same id, but damaged: set it aside, it cannot be replaced at once
            target.rename(self.bundle_dir / f"{_INCOMING}damaged-{uuid.uuid4().hex[:8]}")
        incoming.rename(target)
        _sync(self.bundle_dir)
        return manifest.bundle_id

    def _is_whole(self, folder: Path) -> bool:
        try:
            verify_files(folder, read_manifest(folder))
        except BundleError:
            return False
        return True

    def _clear_incoming(self) -> None:
        """Remove what a killed ``add`` left, unless it may still be at work (an hour is plenty)."""
        for folder in self.bundle_dir.glob(f"{_INCOMING}*"):
            if now_ms() - folder.stat().st_mtime * 1000 > HOUR_MS:
                shutil.rmtree(folder, ignore_errors=True)

    def _point_at(self, bundle_id: str) -> None:
        _replace_json(self.bundle_dir / LIVE_FILE, {"bundle_id": bundle_id})

    def _history(self) -> builtins.list[str]:
        try:
            found = json.loads((self.bundle_dir / HISTORY_FILE).read_bytes())
        except (FileNotFoundError, ValueError):
            return []
        return [str(bundle_id) for bundle_id in found]


def _replace_json(path: Path, document: object) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(json.dumps(document))
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
