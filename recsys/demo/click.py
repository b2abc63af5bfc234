"""One click, and how long it takes until the same user's answer is another one."""

from __future__ import annotations

import time
import uuid

from rich.console import Console

from recsys.client import Client
from recsys.clock import now_ms
from recsys.demo.people import answer_table
from recsys.errors import RecsysError
from recsys.events.schema import InteractionEvent
from recsys.wire import RecommendResponse

_PATIENCE_S = 10.0
_POLL_S = 0.005
_NUM_ITEMS = 5


def show_click(console: Console, client: Client, user_id: str, *, click_type: str) -> float:
    """Act on the second item of a user's list and print the answer that changed.

    Seen items stay in the list here (``exclude_seen=False``): the order must change because the
    user's features did, not because a filter took the item away. Gives the milliseconds from
    sending the event to the first changed answer.

    Raises:
        RecsysError: when the answer did not change in time.
    """
    before = _ask(client, user_id)
    clicked = before.items[1]
    event = InteractionEvent(
        event_id=str(uuid.uuid4()), event_time_ms=now_ms(), user_id=user_id,
        item_id=clicked.item_id, type=click_type, request_id=before.request_id,
        position=clicked.position,
    )  # fmt: skip
    start = time.perf_counter()
    client.send_events([event])
    acknowledged_ms = (time.perf_counter() - start) * 1e3
    while True:
        after = _ask(client, user_id)
        took_ms = (time.perf_counter() - start) * 1e3
        if _scores(after) != _scores(before) and _knows(after, clicked.item_id, before):
            break
        if took_ms > _PATIENCE_S * 1e3:
            raise RecsysError(
                f"wanted another answer within {_PATIENCE_S:g} s of the click on "
                f"{clicked.item_id}, found the same one; see `recsys logs stream_worker`"
            )
        time.sleep(_POLL_S)
    console.print(f"{user_id} did [bold]{click_type}[/bold] on [bold]{clicked.title}[/bold]")
    console.print(answer_table(before))
    console.print(answer_table(after))
    console.print(
        f"event acknowledged by the broker after [bold]{acknowledged_ms:.0f} ms[/bold], "
        f"the answer changed after [bold]{took_ms:.0f} ms[/bold]"
    )
    return took_ms


def _ask(client: Client, user_id: str) -> RecommendResponse:
    return client.recommend(user_id, k=_NUM_ITEMS, exclude_seen=False, explain=True)


def _scores(answer: RecommendResponse) -> list[tuple[str, float]]:
    return [(item.item_id, item.score) for item in answer.items]


def _knows(after: RecommendResponse, item_id: str, before: RecommendResponse) -> bool:
    """Tell whether the features behind ``after`` hold one more interaction with the item."""
    return _count(after, item_id) > _count(before, item_id)


def _count(answer: RecommendResponse, item_id: str) -> float:
    history = answer.features.history if answer.features else []
    return next((entry.count for entry in history if entry.item_id == item_id), 0.0)
