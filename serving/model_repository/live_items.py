"""Keeps the items of a loaded bundle as the log says, inside the model server.

An item that is withdrawn is found no more from the next call on; one that is offered again, or
described anew, is found by its new tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from recsys.bundle.live_items import LatestWords
from recsys.bundle.manifest import read_manifest
from recsys.bundle.served import VOCABULARY_FILE
from recsys.data.item_tokens import event_tokens
from recsys.data.vocabulary_file import load_vocabulary
from recsys.endpoints import resolve
from recsys.events.item_follower import ItemChange, ItemFollower
from recsys.events.log import EventReader
from recsys.events.topics import Topics
from recsys.features.plan import PLAN_FILE, load
from recsys.models.serving_model import ServingModel
from recsys.settings import Settings
from serving.model_repository.turns import Turns

_CONNECT_MS = 2_000
"""A log that does not answer by then is asked again: who unloads the model need not wait longer."""


class ServedItems:
    """The items of one model. See ``recsys/events/item_follower.py``."""

    def __init__(self, model: ServingModel, index_of: Mapping[str, int], turns: Turns) -> None:
        """``index_of`` gives the row of each item identity."""
        self._model = model
        self._index_of = index_of
        self._turns = turns
        self._latest = LatestWords()

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take in changes, in one turn; items the bundle does not know have no row."""
        words = {
            row: event
            for item_id, event in self._latest.of(changes).items()
            if (row := self._index_of.get(item_id)) is not None
        }
        if not words:
            return
        available = [event.available for event in words.values()]
        tokens = {row: event_tokens(event) for row, event in words.items() if event.available}
        with self._turns.turn():
            self._model.change_items(list(words), available, tokens)


def follow_items(
    model: ServingModel, bundle_path: Path, state_dir: Path, turns: Turns
) -> tuple[ServedItems, ItemFollower]:
    """Give the items of a bundle and who follows the log for them; not started yet.

    The log's address is asked for at each connection: it may change while the model is loaded.
    """
    settings = Settings(RECSYS_STATE_DIR=state_dir)
    # Not from the environment, which is that of whoever started Triton.
    topics = Topics(namespace=load(bundle_path / PLAN_FILE).project)
    items = ServedItems(model, load_vocabulary(bundle_path / VOCABULARY_FILE).index_of, turns)

    def connect() -> EventReader:
        # Imported by the thread that connects: the client takes a fifth of a second to import.
        from recsys.events.kafka import ReaderConfig, connect_reader

        return connect_reader(
            settings, resolve(settings), topics=[topics.items],
            group=f"{topics.namespace}.models", config=ReaderConfig(start_timeout_ms=_CONNECT_MS),
        )  # fmt: skip

    follower = ItemFollower(connect)
    follower.add(items, read_manifest(bundle_path).lineage.log_positions)
    return items, follower
