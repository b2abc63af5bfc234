"""Where bundles lie, which one is live, and which one is to be.

``<bundle_dir>/<bundle_id>/`` never changes once it is there; ``live.json`` names the one in force,
what was in force before it, and who put it there; ``beside.json`` those that are served beside it,
to whom a request may be assigned; ``challenger.json`` names the one to be compared with it. Each
appears by one rename after everything was flushed to disk, so a process killed at any
instruction leaves either the old state or the new one, at worst with an ``.incoming-…`` folder that
the next ``add`` clears away. Who changes a pointer holds a lock, so of two at once neither's change
is lost.

Aliases: ``champion`` *is* the live bundle, by definition, not by a second file that could disagree;
``challenger`` is the newest that passed its gate and is not live. Elsewhere (a model registry) they
are mirrored from here.
"""

from __future__ import annotations

import builtins
import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.bundle.live_pointer import LivePointer
from recsys.bundle.manifest import MANIFEST_FILE, Manifest, read_manifest, verify_files
from recsys.bundle.pointer_files import read_pointer, replace_pointer
from recsys.clock import HOUR_MS, now_ms
from recsys.errors import BundleError
from recsys.events.durable_files import sync

BESIDE_FILE = "beside.json"
CHALLENGER_FILE = "challenger.json"
CHAMPION, CHALLENGER = "champion", "challenger"
ALIASES = (CHAMPION, CHALLENGER)
_INCOMING = ".incoming-"
MAX_BESIDE = 4
"""Bundles served beside the live one: each costs the model server its memory."""


class BundleStore:
    """Bundles of one system."""

    def __init__(self, bundle_dir: Path) -> None:
        self.bundle_dir = bundle_dir
        self._pointer = LivePointer(bundle_dir)

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
        return self._pointer.bundle_id()

    def before(self) -> str | None:
        """Give what was in force before the live bundle: what `rollback` would go back to."""
        activated = self._pointer.activated()
        others = [bundle_id for bundle_id in activated if bundle_id != activated[-1]]
        return others[-1] if others else None

    def activate(self, bundle_id: str, *, fence: int | None = None) -> None:
        """Make a bundle the live one. Its files are verified first.

        Args:
            bundle_id: Which one.
            fence: Number of the run that asks, higher for each later one. None: a person asks, and
                which run was the latest stays as it was.

        Raises:
            BundleError: when there is no such bundle, it is damaged, or a later run than ``fence``
                has already made one live.
        """
        folder = self.path(bundle_id)
        verify_files(folder, read_manifest(folder))
        with self._alone():
            before = self._pointer.activated()
            latest = self._pointer.fence()
            if fence is not None and fence < latest:
                raise BundleError(
                    f"wanted to make {bundle_id} live for run {fence}, found that run {latest}, "
                    "which began later, has been here; nothing was changed"
                )
            self._pointer.write([*before, bundle_id], latest if fence is None else fence)
            self._clear_beside()

    def rollback(self) -> str:
        """Make the bundle that was live before this one live again, and give its id.

        Raises:
            BundleError: when there was none, or it is gone or damaged.
        """
        with self._alone():
            live, before = self.live(), self._pointer.activated()
            while before and before[-1] == live:
                before.pop()
            if not before:
                raise BundleError(
                    f"nothing to roll back to: {live!r} is the only bundle ever activated here"
                )
            folder = self.path(before[-1])
            verify_files(folder, read_manifest(folder))
            self._pointer.write(before, self._pointer.fence())
            self._clear_beside()
            return before[-1]

    def beside(self) -> tuple[str, ...]:
        """Give the bundles served beside the live one, in the order they were put there.

        Raises:
            BundleError: when a pointer is damaged.
        """
        document = read_pointer(self.bundle_dir / BESIDE_FILE, "bundle_ids")
        live = self.live()
        named = () if document is None else document["bundle_ids"]
        return tuple(str(bundle_id) for bundle_id in named if bundle_id != live)

    def put_beside(self, bundle_id: str) -> None:
        """Have a bundle served beside the live one. Its files are verified first.

        Raises:
            BundleError: when there is no such bundle, it is damaged, it is the live one, or there
                are ``MAX_BESIDE`` already.
        """
        folder = self.path(bundle_id)
        verify_files(folder, read_manifest(folder))
        with self._alone():
            if bundle_id == self.live():
                raise BundleError(f"{bundle_id} is the live bundle; it is served already")
            others = [other for other in self.beside() if other != bundle_id]
            if len(others) >= MAX_BESIDE:
                raise BundleError(
                    f"wanted at most {MAX_BESIDE} bundles beside the live one, found "
                    f"{', '.join(others)} there; run `recsys bundle retire ID` first"
                )
            self._write_beside([*others, bundle_id])

    def retire(self, bundle_id: str) -> None:
        """Have a bundle served beside the live one no longer.

        Raises:
            BundleError: when it is not served beside the live one.
        """
        with self._alone():
            beside = list(self.beside())
            if bundle_id not in beside:
                raise BundleError(
                    f"wanted a bundle served beside the live one, found {bundle_id!r}; "
                    f"there {'are ' + ', '.join(beside) if beside else 'is none'}"
                )
            beside.remove(bundle_id)
            self._write_beside(beside)

    def _clear_beside(self) -> None:
        """Forget that the bundle which is live now was served beside another."""
        document = read_pointer(self.bundle_dir / BESIDE_FILE, "bundle_ids")
        beside = list(self.beside())
        if document is not None and document["bundle_ids"] != beside:
            self._write_beside(beside)

    def _write_beside(self, bundle_ids: builtins.list[str]) -> None:
        replace_pointer(self.bundle_dir / BESIDE_FILE, {"bundle_ids": bundle_ids})

    def aliases(self) -> dict[str, str]:
        """Give what ``champion`` and ``challenger`` stand for; one that stands for none is absent.

        A challenger that went live is no challenger any more.

        Raises:
            BundleError: when a pointer is damaged.
        """
        live = self.live()
        found = {} if live is None else {CHAMPION: live}
        document = read_pointer(self.bundle_dir / CHALLENGER_FILE)
        if document is not None and document["bundle_id"] != live:
            found[CHALLENGER] = str(document["bundle_id"])
        return found

    def set_challenger(self, bundle_id: str | None) -> None:
        """Make a bundle the challenger; None: there is none. Its files are verified first.

        Raises:
            BundleError: when there is no such bundle or it is damaged.
        """
        if bundle_id is not None:
            folder = self.path(bundle_id)
            verify_files(folder, read_manifest(folder))
        with self._alone():
            if bundle_id is None:
                (self.bundle_dir / CHALLENGER_FILE).unlink(missing_ok=True)
                sync(self.bundle_dir)
            else:
                replace_pointer(self.bundle_dir / CHALLENGER_FILE, {"bundle_id": bundle_id})

    def resolve(self, name: str) -> str:
        """Give the id that an alias stands for; an id stands for itself.

        Raises:
            BundleError: when the alias stands for no bundle.
        """
        if name not in ALIASES:
            return name
        aliases = self.aliases()
        if name not in aliases:
            raise BundleError(
                f"no bundle is the {name} in {self.bundle_dir}; "
                + ("run `recsys publish`" if name == CHAMPION else "run `recsys pipeline run`")
            )
        return aliases[name]

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
            sync(incoming / name)
        sync(incoming)
        if target.exists():  # the same id, but damaged: set it aside, it cannot be replaced at once
            target.rename(self.bundle_dir / f"{_INCOMING}damaged-{uuid.uuid4().hex[:8]}")
        incoming.rename(target)
        sync(self.bundle_dir)
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

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the pointers; it goes with the process that holds it."""
        self.bundle_dir.mkdir(parents=True, exist_ok=True)
        with (self.bundle_dir / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
