"""Reads the moving features of a bundle's items from the online store, in vocabulary order."""

from __future__ import annotations

from pathlib import Path

from recsys.bundle.served import VOCABULARY_FILE
from recsys.clock import now_ms
from recsys.data.vocabulary_file import load_vocabulary
from recsys.endpoints import resolve
from recsys.features.batch import ItemActivity
from recsys.features.online import OnlineReader
from recsys.features.plan import PLAN_FILE, load
from recsys.settings import Settings
from serving.model_repository.refresh import ReadItems


def connect_item_reader(bundle_path: Path, state_dir: Path) -> ReadItems:
    """Give a function that reads every item of the bundle at the present moment.

    The store's address is asked for here and not written into the model's configuration: it may
    change while the model is loaded, and it may hold a password.
    """
    settings = Settings(RECSYS_STATE_DIR=state_dir)
    reader = OnlineReader(load(bundle_path / PLAN_FILE), resolve(settings).require_redis())
    item_ids = load_vocabulary(bundle_path / VOCABULARY_FILE).item_ids

    def read_items() -> ItemActivity:
        return reader.read_items(item_ids, now_ms=now_ms())

    return read_items
