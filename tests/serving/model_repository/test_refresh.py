"""Item features in the model server: whole swaps, growing age when the store is away, turns."""

from __future__ import annotations

import threading
import time

import numpy as np

from recsys.errors import ServerError
from recsys.features.batch import ItemActivity
from serving.model_repository.refresh import ITEMS_A_TURN, ItemRefresher
from serving.model_repository.turns import Turns
from tests.inference.toy_model import ToyModel


class MemoryItems:
    """Item ``i`` (from 0) has the features ``i`` and ``now_ms``."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.spans: list[tuple[int, int]] = []
        self.failing = False
        self.closed = False

    def read(self, begin: int, end: int, now_ms: int) -> ItemActivity:
        if self.failing:
            raise ServerError("the store is away")
        self.spans.append((begin, end))
        rows = np.arange(begin, end, dtype=np.float32)
        activity = np.stack([rows, np.full_like(rows, now_ms)], axis=1)
        return ItemActivity(
            as_of_ms=now_ms, known=np.ones(end - begin, dtype=np.bool_), activity=activity
        )

    def close(self) -> None:
        self.closed = True


def test_all_items_are_read_in_turns_as_of_one_moment_and_swapped_in_at_once() -> None:
    num_items = 2 * ITEMS_A_TURN + 7
    items, model = MemoryItems(num_items), ToyModel(num_items)
    refresher = ItemRefresher(
        model, lambda: items, turns=Turns(), interval_s=60.0, clock=lambda: 5_000
    )
    assert refresher.refresh()
    assert items.spans == [(0, 200), (200, 400), (400, num_items)]
    assert model.item_activity_as_of_ms == 5_000
    assert model.item_activity.shape == (num_items + 1, 2)
    assert model.item_activity[0].tolist() == [0.0, 0.0]
    assert model.item_activity[1:, 0].tolist() == list(range(num_items))
    assert set(model.item_activity[1:, 1].tolist()) == {5_000.0}


def test_a_store_that_is_away_leaves_the_last_values_and_is_connected_anew() -> None:
    first, second = MemoryItems(3), MemoryItems(3)
    connections = iter([first, second])
    now = iter([1_000, 2_000, 3_000])
    model = ToyModel(3)
    refresher = ItemRefresher(
        model,
        lambda: next(connections),
        turns=Turns(),
        interval_s=60.0,
        clock=lambda: next(now),
    )
    assert refresher.refresh()
    first.failing = True
    assert not refresher.refresh()
    assert first.closed
    assert model.item_activity_as_of_ms == 1_000
    assert refresher.refresh()
    assert model.item_activity_as_of_ms == 3_000


def test_requests_without_a_pause_leave_room_for_the_background() -> None:
    turns = Turns()
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            with turns.turn():
                time.sleep(0.001)

    requests = threading.Thread(target=serve)
    requests.start()
    begin = time.monotonic()
    for _ in range(20):
        with turns.turn():
            pass
    took_s = time.monotonic() - begin
    stopped.set()
    requests.join()
    assert took_s < 5.0  # each turn waits for about one request, not for ever
