"""Features for logs in which every exposure is on record: what was shown, and what came of it.

Another Feast repository beside ``feature_repo``, compiled by the same code and run by the same
stream, backfill and point-in-time reader (``recsys features apply --repository``). Its views have
the names that models read and other columns: responses are counted by type beside the impressions,
so that a model sees rates of clicks and long views and not the sum of all acts.
"""

from __future__ import annotations

from datetime import timedelta

from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    StreamFeatureView,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.types import Array, Bool, Float32, Float64, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
category = Entity(name="category", join_keys=["category"], value_type=ValueType.STRING)

WINDOWS = {
    "1h": (timedelta(hours=1), timedelta(minutes=5)),
    "1d": (timedelta(days=1), timedelta(hours=1)),
    "30d": (timedelta(days=30), timedelta(days=1)),
}
"""Name to window and slide."""
COLUMNS = {
    "impressions": ("impression", "count"),
    "clicks": ("interaction__click", "count"),
    "long_views": ("interaction__long_view", "count"),
    "watched": ("interaction__long_view", "sum"),
    "likes": ("interaction__like", "count"),
    "watches": ("interaction__watch", "count"),
}
"""Name to what is counted. A watch is an exposure known from a user's history alone."""


def batch_source(name: str) -> FileSource:
    """Give where Feast's own offline reads find rows of a view."""
    return FileSource(
        name=f"{name}_rows",
        path=f"data/{name}.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )


behaviour = KafkaSource(
    name="behaviour",
    kafka_bootstrap_servers="",
    topic="behaviour",
    timestamp_field="event_timestamp",
    message_format=JsonFormat(
        schema_json="user_id string, item_id string, category string, event_timestamp timestamp, "
        "interaction double, impression double, feedback double"
    ),
    batch_source=batch_source("behaviour"),
)


def counts(names: list[str], windows: list[str]) -> list[Aggregation]:
    """Declare columns over windows."""
    return [
        Aggregation(
            name=f"{name}_{window}",
            column=COLUMNS[name][0],
            function=COLUMNS[name][1],
            time_window=WINDOWS[window][0],
            slide_interval=WINDOWS[window][1],
        )
        for name in names
        for window in windows
    ]


def activity(name: str, entities: list[Entity], aggregations: list[Aggregation]):
    """Declare a view of windowed aggregates."""
    return StreamFeatureView(
        name=name,
        entities=entities,
        ttl=max(a.time_window for a in aggregations),
        source=behaviour,
        mode="python",
        timestamp_field="event_timestamp",
        aggregations=aggregations,
        schema=[Field(name=a.name, dtype=Float32) for a in aggregations],
        online=True,
        tags={"stored": "state"},
    )


user_profile = FeatureView(
    name="user_profile",
    entities=[user],
    ttl=timedelta(0),
    schema=[Field(name="tokens", dtype=Array(String))],
    source=batch_source("user_profile"),
)

item_profile = FeatureView(
    name="item_profile",
    entities=[item],
    ttl=timedelta(0),
    schema=[
        Field(name="title", dtype=String),
        Field(name="category", dtype=String),
        Field(name="price", dtype=Float64),
        Field(name="born_ms", dtype=Int64),
        Field(name="available", dtype=Bool),
        Field(name="tokens", dtype=Array(String)),
    ],
    source=batch_source("item_profile"),
)

RESPONSES = ["impressions", "clicks", "long_views", "watched", "likes"]

user_activity = activity(
    "user_activity", [user], counts(RESPONSES, ["1h", "1d", "30d"]) + counts(["watches"], ["30d"])
)
item_activity = activity(
    "item_activity", [item], counts(RESPONSES, ["1h", "1d", "30d"]) + counts(["watches"], ["30d"])
)
user_category_activity = activity(
    "user_category_activity",
    [user, category],
    counts(["impressions", "clicks", "long_views"], ["1d", "30d"]) + counts(["watches"], ["30d"]),
)

user_history = StreamFeatureView(
    name="user_history",
    entities=[user],
    ttl=timedelta(days=730),
    source=behaviour,
    mode="python",
    timestamp_field="event_timestamp",
    schema=[
        Field(name="item_ids", dtype=Array(String)),
        Field(name="counts", dtype=Array(Int64)),
        Field(name="last_ms", dtype=Array(Int64)),
    ],
    online=True,
    tags={"stored": "state"},
)

ranking_v1 = FeatureService(
    name="ranking_v1",
    features=[
        user_profile,
        user_activity,
        user_history,
        user_category_activity,
        item_profile,
        item_activity,
    ],
)
