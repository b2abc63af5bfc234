"""Finds the online store of a bundle's items."""

from __future__ import annotations

from pathlib import Path

from recsys.endpoints import resolve
from recsys.features.item_feed import ItemFeed
from recsys.features.plan import PLAN_FILE, load
from recsys.settings import Settings


def connect_items(bundle_path: Path, state_dir: Path) -> ItemFeed:
    """Give the feed of the items of a bundle.

    The store's address is asked for at each connection and not written into the model's
    configuration: it may change while the model is loaded, and it may hold a password.
    """
    settings = Settings(RECSYS_STATE_DIR=state_dir)
    return ItemFeed(load(bundle_path / PLAN_FILE), resolve(settings).require_redis())
