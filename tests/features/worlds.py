"""Plans and event streams for the feature tests."""

from __future__ import annotations

import numpy as np

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.data.vocabulary import Vocabulary
from recsys.events.codec import encode
from recsys.events.log import Record
from recsys.events.partitioning import partition_of
from recsys.events.schema import (
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)
from recsys.events.topics import Topics
from recsys.features import names
from recsys.features.aggregation import Aggregate
from recsys.features.batch import UserFeatures
from recsys.features.hashes import VERSION_FIELD
from recsys.features.plan import Plan
from recsys.features.view import Feature, ValueType, View

_FUNCTIONS = ("count", "sum", "mean", "min", "max", "first", "last")


def aggregate_view(name: str, keys: tuple[str, ...], aggregates: tuple[Aggregate, ...]) -> View:
    return View(
        name=name,
        join_keys=keys,
        features=tuple(feature(name, a.name, "float32") for a in aggregates),
        ttl_ms=max(a.window_ms for a in aggregates),
        aggregates=aggregates,
    )


def feature(view: str, name: str, type_: ValueType) -> Feature:
    import mmh3

    return Feature(name=name, type=type_, field=mmh3.hash(f"{view}:{name}", signed=False))


def aggregates(columns: tuple[str, ...]) -> tuple[Aggregate, ...]:
    spans = ((HOUR_MS, 5 * MINUTE_MS), (DAY_MS, HOUR_MS), (7 * DAY_MS, DAY_MS), (3000, 1000))
    return tuple(
        Aggregate(
            name=f"{column}_{function}_{window}_{slide}",
            column=column,
            function=function,
            window_ms=window,
            slide_ms=slide,
        )
        for column in columns
        for function in _FUNCTIONS
        for window, slide in spans
    )


def small_plan(project: str = "test") -> Plan:
    """Give a plan with every function over every kind of column."""

    def fields(view: str, **types: ValueType) -> tuple[Feature, ...]:
        return tuple(feature(view, name, type_) for name, type_ in types.items())

    columns = ("interaction", "interaction__purchase", "impression", "feedback__like")
    return Plan(
        project=project,
        views=(
            aggregate_view(names.USER_ACTIVITY, ("user_id",), aggregates(columns)),
            aggregate_view(names.ITEM_ACTIVITY, ("item_id",), aggregates(columns)),
            aggregate_view(
                names.USER_CATEGORY_ACTIVITY, ("category", "user_id"), aggregates(("interaction",))
            ),
            View(
                name=names.USER_HISTORY,
                join_keys=("user_id",),
                features=fields(
                    names.USER_HISTORY,
                    counts="int64_list", item_ids="string_list", last_ms="int64_list",
                ),
                ttl_ms=0,
            ),
            View(
                name=names.USER_PROFILE,
                join_keys=("user_id",),
                features=fields(names.USER_PROFILE, tokens="string_list"),
                ttl_ms=0,
            ),
            View(
                name=names.ITEM_PROFILE,
                join_keys=("item_id",),
                features=fields(
                    names.ITEM_PROFILE,
                    available="bool", born_ms="int64", category="string", price="float64",
                    title="string", tokens="string_list",
                ),
                ttl_ms=0,
            ),
        ),
        services={},
        definitions_hash="",
    )  # fmt: skip


def unversioned(content: dict[bytes, dict[bytes, bytes]]) -> dict[bytes, dict[bytes, bytes]]:
    """Give hashes without the count of their writes, which depends on the batches."""
    return {
        key: {k: v for k, v in fields.items() if k != VERSION_FIELD}
        for key, fields in content.items()
    }


def as_int64(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


TOPICS = Topics(namespace="test")


def random_events(
    rng: np.random.Generator, *, start_ms: int, span_ms: int, num_events: int, late_ms: int = 0
) -> list[Event]:
    """Give events of a small world, items first, then behaviour roughly in order of time.

    Args:
        rng: Source of chance.
        start_ms: Earliest event time.
        span_ms: Behaviour lies in ``[start_ms, start_ms + span_ms)``.
        num_events: Behaviour events.
        late_ms: How far an event may come after one that happened later.
    """
    users = [f"u{k}" for k in range(5)]
    items = [f"i{k}" for k in range(12)]
    categories = ["tea", "mugs", ""]
    events: list[Event] = [
        ItemEvent(
            event_id=f"item-{item}", event_time_ms=start_ms - 1, item_id=item, title=f"T {item}",
            category=categories[k % 3], price=1.5 * k if k % 2 else None, attributes={"k": k},
        )
        for k, item in enumerate(items)
    ]  # fmt: skip
    events += [
        ItemEvent(
            event_id=f"moved-{item}", event_time_ms=start_ms + span_ms // 2, item_id=item,
            title=f"T {item}", category="mugs",
        )
        for item in items[:2]
    ]  # fmt: skip
    at = np.sort(rng.integers(0, span_ms, num_events)) + start_ms
    arrival = np.argsort(at + rng.integers(0, late_ms + 1, num_events), kind="stable")
    for n in arrival.tolist():
        user, item, time_ms = str(rng.choice(users)), str(rng.choice(items)), int(at[n])
        match rng.integers(0, 10):
            case 0:
                event: Event = UserEvent(
                    event_id=f"e{n}",
                    event_time_ms=time_ms,
                    user_id=user,
                    attributes={"country": str(rng.choice(["FR", "UK"])), "n": int(n)},
                )
            case 1 | 2:
                event = ImpressionEvent(
                    event_id=f"e{n}",
                    event_time_ms=time_ms,
                    user_id=user,
                    request_id=f"r{n}",
                    items=[str(i) for i in rng.choice(items, 4)],
                )
            case 3:
                event = FeedbackEvent(
                    event_id=f"e{n}",
                    event_time_ms=time_ms,
                    user_id=user,
                    item_id=item,
                    type=str(rng.choice(["like", "hide"])),
                    value=float(rng.normal()),
                )
            case _:
                event = InteractionEvent(
                    event_id=f"e{n}", event_time_ms=time_ms, user_id=user, item_id=item,
                    type=str(rng.choice(["click", "purchase"])), value=float(rng.normal(5, 50)),
                )  # fmt: skip
        events.append(event)
    return events


def in_log(
    events: list[Event], *, num_partitions: int = 2, rng: np.random.Generator | None = None
) -> list[tuple[Record, Event]]:
    """Lay events in the log, received in order; with ``rng`` some are sent twice, or by a sender
    whose clock is ahead."""
    if rng is not None:
        twice = [e for e in events if not isinstance(e, ItemEvent) and rng.random() < 0.1]
        events = events + twice
    ends: dict[tuple[str, int], int] = {}
    laid = []
    now_ms = 0
    for event in events:
        ahead_ms = 0 if rng is None or rng.random() < 0.8 else int(rng.integers(0, 100_000))
        now_ms = max(now_ms + 1, event.event_time_ms - ahead_ms)
        topic, key = TOPICS.route(event)
        partition = partition_of(key, num_partitions)
        offset = ends.get((topic, partition), 0)
        ends[topic, partition] = offset + 1
        laid.append((Record(topic, partition, offset, key, encode(event), now_ms), event))
    return laid


def vocabulary() -> Vocabulary:
    """Give items and categories of the small world, one of each left out."""
    return Vocabulary(tuple(f"i{k}" for k in range(11)), ("", "tea", "mugs"))


def assert_equal_users(a: UserFeatures, b: UserFeatures) -> None:
    """Compare to the bit."""
    for name in ("as_of_ms", "known", "activity", "category_activity"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name, strict=True)
    for name in ("token_hashes", "history_index", "history_count", "history_last_ms"):
        for part in ("offsets", "values"):
            x, y = getattr(getattr(a, name), part), getattr(getattr(b, name), part)
            np.testing.assert_array_equal(x, y, err_msg=f"{name}.{part}", strict=True)
