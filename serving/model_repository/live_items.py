"""Follows the log for the items of a loaded bundle, inside the model server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from recsys.bundle.item_describer import ItemDescriber
from recsys.bundle.manifest import read_manifest
from recsys.bundle.model_items import ModelItems
from recsys.data.vocabulary import GrowingVocabulary
from recsys.endpoints import resolve
from recsys.events.item_follower import ItemFollower
from recsys.events.log import EventReader
from recsys.events.topics import Topics
from recsys.features.plan import PLAN_FILE, load
from recsys.models.serving import TorchServingModel
from recsys.settings import Settings
from serving.model_repository.turns import Turns

_CONNECT_MS = 2_000
"""A log that does not answer by then is asked again: who unloads the model need not wait longer."""


def follow_items(
    model: TorchServingModel, vocabulary: GrowingVocabulary, bundle_path: Path, state_dir: Path,
    turns: Turns, *, room: int,
) -> tuple[ModelItems, ItemFollower]:  # fmt: skip
    """Give the items of a bundle and who follows the log for them; not started yet.

    ``vocabulary`` is the bundle's, and is added to from the follower's thread.
    The log's address is asked for at each connection: it may change while the model is loaded.
    """
    settings = Settings(RECSYS_STATE_DIR=state_dir)
    # Not from the environment, which is that of whoever started Triton.
    topics = Topics(namespace=load(bundle_path / PLAN_FILE).project)
    manifest = read_manifest(bundle_path)
    items = ModelItems(
        model, vocabulary, ItemDescriber(bundle_path, manifest, vocabulary),
        room=room, turn=turns.turn,
    )  # fmt: skip

    def connect() -> EventReader:
        # Imported by the thread that connects: the client takes a fifth of a second to import.
        from recsys.events.kafka import FOLLOWING, connect_reader

        return connect_reader(
            settings, resolve(settings), topics=[topics.items],
            group=f"{topics.namespace}.models",
            config=replace(FOLLOWING, start_timeout_ms=_CONNECT_MS),
        )  # fmt: skip

    follower = ItemFollower(connect)
    follower.add(items, manifest.lineage.log_positions)
    return items, follower
