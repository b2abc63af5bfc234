"""``live.json``: which bundle is in force, what was before it, and which run made it so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from recsys.bundle.pointer_files import read_pointer, replace_pointer
from recsys.errors import BundleError

LIVE_FILE = "live.json"
HISTORY_FILE = "activations.json"
"""Where stores of before kept what ``live.json`` holds as ``before``; still read, not written."""
_MAX_HISTORY = 100


class LivePointer:
    """The pointer of one folder of bundles. Who writes holds the lock of the store."""

    def __init__(self, bundle_dir: Path) -> None:
        self._bundle_dir = bundle_dir
        self._path = bundle_dir / LIVE_FILE

    def bundle_id(self) -> str | None:
        """Give the bundle in force; None before the first activation.

        Raises:
            BundleError: when the pointer is damaged.
        """
        document = read_pointer(self._path)
        return None if document is None else str(document["bundle_id"])

    def fence(self) -> int:
        """Give the number of the latest run that wrote; 0 when none did or it is damaged."""
        try:
            document = read_pointer(self._path)
        except BundleError:  # only a person can put it right, by activating
            return 0
        return 0 if document is None else int(document.get("fence", 0))

    def activated(self) -> list[str]:
        """Give all that was made live, oldest first; the last one is live."""
        try:
            document = read_pointer(self._path)
        except BundleError:
            document = None
        if document is not None and "before" in document:
            return [*map(str, document["before"]), str(document["bundle_id"])]
        try:
            found = json.loads((self._bundle_dir / HISTORY_FILE).read_bytes())
        except (FileNotFoundError, ValueError):
            found = []
        history = [str(bundle_id) for bundle_id in found]
        if document is not None:
            # The history was written first: a kill in between left one in it that never was live.
            while history and history[-1] != document["bundle_id"]:
                history.pop()
            history = history or [str(document["bundle_id"])]
        return history

    def write(self, activated: Sequence[str], fence: int) -> None:
        """Replace the pointer; ``activated`` ends with what is to be live."""
        before = list(activated[:-1][-_MAX_HISTORY:])
        document = {"bundle_id": activated[-1], "before": before, "fence": fence}
        replace_pointer(self._path, document)
