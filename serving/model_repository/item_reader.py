"""Reads the moving features of a bundle's items from the online store, in vocabulary order."""

from __future__ import annotations

from pathlib import Path

from recsys.bundle.served import VOCABULARY_FILE
from recsys.data.vocabulary_file import load_vocabulary
from recsys.endpoints import resolve
from recsys.features.batch import ItemActivity
from recsys.features.online import OnlineReader
from recsys.features.plan import PLAN_FILE, load
from recsys.settings import Settings


class ItemReader:
    """The items of one bundle in the online store.

    The store's address is asked for here and not written into the model's configuration: it may
    change while the model is loaded, and it may hold a password.
    """

    def __init__(self, bundle_path: Path, state_dir: Path) -> None:
        settings = Settings(RECSYS_STATE_DIR=state_dir)
        self._reader = OnlineReader(
            load(bundle_path / PLAN_FILE), resolve(settings).require_redis()
        )
        self._item_ids = load_vocabulary(bundle_path / VOCABULARY_FILE).item_ids

    @property
    def num_items(self) -> int:
        """N."""
        return len(self._item_ids)

    def read(self, begin: int, end: int, now_ms: int) -> ItemActivity:
        """Give items ``begin`` to ``end`` (from 0) as they are at ``now_ms``."""
        return self._reader.read_items(self._item_ids[begin:end], now_ms=now_ms)

    def close(self) -> None:
        """Let go of the connections."""
        self._reader.close()
