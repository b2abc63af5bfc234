"""The features of the system, declared: an ordinary Feast repository.

Feast declares streams and does not run them; ``recsys`` does. What an aggregation is made of is
said by its column: ``interaction``, ``impression`` or ``feedback`` holds the value of such an
event and is null for the others; ``interaction__purchase`` is that of one type only. Counting a
column counts its values that are not null, as in SQL. An impression is one item shown, value 1.

``docs/features.md`` says how to add a feature and what its value at a time is.
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
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int64, String

from recsys.features import on_demand
from recsys.features.request_time import REQUEST_TIME_FEATURES

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
category = Entity(name="category", join_keys=["category"], value_type=ValueType.STRING)


def batch_source(name: str) -> FileSource:
    """Give where Feast's own offline reads find rows of a view (our training reads the log)."""
    return FileSource(
        name=f"{name}_rows",
        path=f"data/{name}.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )


behaviour = KafkaSource(
    name="behaviour",
    kafka_bootstrap_servers="",  # addresses are settings of the stream worker, not of a feature
    topic="behaviour",
    timestamp_field="event_timestamp",
    message_format=JsonFormat(
        schema_json="user_id string, item_id string, category string, event_timestamp timestamp, "
        "interaction double, impression double, feedback double"
    ),
    batch_source=batch_source("behaviour"),
    description="User, impression, interaction and feedback events, keyed by user.",
)


def aggregate(name: str, column: str, function: str, window: timedelta, slide: timedelta):
    """Declare one windowed aggregate."""
    return Aggregation(
        name=name, column=column, function=function, time_window=window, slide_interval=slide
    )


EXPECTED = {
    "count": {"min": "0", "max": "1e6", "max_null_share": "0"},
    "sum": {"min": "-1e9", "max": "1e9", "max_null_share": "0"},
    "mean": {"min": "-1e6", "max": "1e6", "max_null_share": "0"},
}
"""Expectations by function, as `recsys features check` and the stream judge them. A robot or a
unit mistake breaks them, a good customer does not."""


STORED = {"stored": "state"}
"""Redis holds the state of these views and no values: readers finalise those when they read. Take
it away from a view that programs without our plug-in read, as of each entity's last event."""


def activity(name: str, entities: list[Entity], aggregations: list[Aggregation], about: str):
    """Declare a view of windowed aggregates; its columns are in the order of ``aggregations``."""
    return StreamFeatureView(
        name=name,
        description=about,
        entities=entities,
        ttl=max(a.time_window for a in aggregations),
        source=behaviour,
        mode="python",
        timestamp_field="event_timestamp",
        aggregations=aggregations,
        schema=[
            Field(name=a.name, dtype=Float32, tags=EXPECTED.get(a.function, {}))
            for a in aggregations
        ],
        online=True,
        tags=STORED,
    )


user_profile = FeatureView(
    name="user_profile",
    description="What the latest user event says.",
    entities=[user],
    ttl=timedelta(0),
    schema=[Field(name="tokens", dtype=Array(String), description="key=value, sorted")],
    source=batch_source("user_profile"),
)

item_profile = FeatureView(
    name="item_profile",
    description="What the latest item event says.",
    entities=[item],
    ttl=timedelta(0),
    schema=[
        Field(name="title", dtype=String),
        Field(name="category", dtype=String),
        Field(
            name="price",
            dtype=Float64,
            description="null when unknown",
            tags={"min": "0", "max": "1e6", "max_null_share": "0.5"},
        ),
        Field(name="born_ms", dtype=Int64, description="epoch ms UTC"),
        Field(name="available", dtype=Bool),
        Field(name="tokens", dtype=Array(String), description="key=value, sorted"),
    ],
    source=batch_source("item_profile"),
)

user_activity = activity(
    "user_activity",
    [user],
    [
        aggregate("interactions_1h", "interaction", "count", HOUR, 5 * MINUTE),
        aggregate("interactions_1d", "interaction", "count", DAY, HOUR),
        aggregate("interactions_7d", "interaction", "count", 7 * DAY, DAY),
        aggregate("interactions_30d", "interaction", "count", 30 * DAY, DAY),
        aggregate("interactions_90d", "interaction", "count", 90 * DAY, DAY),
        aggregate("value_sum_30d", "interaction", "sum", 30 * DAY, DAY),
        aggregate("value_mean_90d", "interaction", "mean", 90 * DAY, DAY),
        aggregate("impressions_1h", "impression", "count", HOUR, 5 * MINUTE),
        aggregate("impressions_1d", "impression", "count", DAY, HOUR),
        aggregate("impressions_7d", "impression", "count", 7 * DAY, DAY),
        aggregate("feedback_30d", "feedback", "count", 30 * DAY, DAY),
    ],
    "How active a user is.",
)

item_activity = activity(
    "item_activity",
    [item],
    [
        aggregate("interactions_1h", "interaction", "count", HOUR, 5 * MINUTE),
        aggregate("interactions_1d", "interaction", "count", DAY, HOUR),
        aggregate("interactions_7d", "interaction", "count", 7 * DAY, DAY),
        aggregate("interactions_30d", "interaction", "count", 30 * DAY, DAY),
        aggregate("value_sum_30d", "interaction", "sum", 30 * DAY, DAY),
        aggregate("impressions_1h", "impression", "count", HOUR, 5 * MINUTE),
        aggregate("impressions_1d", "impression", "count", DAY, HOUR),
        aggregate("impressions_7d", "impression", "count", 7 * DAY, DAY),
        aggregate("feedback_30d", "feedback", "count", 30 * DAY, DAY),
    ],
    "How much an item is acted on and shown.",
)

user_category_activity = activity(
    "user_category_activity",
    [user, category],
    [
        aggregate("interactions_1d", "interaction", "count", DAY, HOUR),
        aggregate("interactions_7d", "interaction", "count", 7 * DAY, DAY),
        aggregate("interactions_30d", "interaction", "count", 30 * DAY, DAY),
        aggregate("interactions_90d", "interaction", "count", 90 * DAY, DAY),
        aggregate("impressions_7d", "impression", "count", 7 * DAY, DAY),
    ],
    "How much a user acts on the items of a category.",
)

user_history = StreamFeatureView(
    name="user_history",
    description="Distinct items of a user's latest interactions, least recent first.",
    entities=[user],
    ttl=timedelta(days=730),
    source=behaviour,
    mode="python",
    timestamp_field="event_timestamp",
    schema=[
        Field(name="item_ids", dtype=Array(String)),
        Field(name="counts", dtype=Array(Int64), description="interactions with each"),
        Field(name="last_ms", dtype=Array(Int64), description="time of the latest, epoch ms UTC"),
    ],
    online=True,
    tags=STORED,
)

moment = RequestSource(
    name="moment",
    schema=[Field(name="as_of_ms", dtype=Int64), Field(name="last_interaction_ms", dtype=Int64)],
)


@on_demand_feature_view(
    sources=[moment],
    schema=[
        Field(name="hour_sin", dtype=Float32),
        Field(name="hour_cos", dtype=Float32),
        Field(name="weekday_sin", dtype=Float32),
        Field(name="weekday_cos", dtype=Float32),
        Field(name="seconds_since_last_interaction", dtype=Float32),
    ],
    description="Features of the moment of a request.",
    tags=on_demand.tags("recsys.features.request_time:request_time", REQUEST_TIME_FEATURES),
)
def request_time(inputs):  # Feast gives and wants a pandas frame
    """Give the features of ``recsys.features.request_time``."""
    from recsys.features import on_demand
    from recsys.features.request_time import REQUEST_TIME_FEATURES

    made_by = on_demand.tags("recsys.features.request_time:request_time", REQUEST_TIME_FEATURES)
    return on_demand.values_of_frame(made_by, inputs)


retrieval_v1 = FeatureService(
    name="retrieval_v1",
    description="What finds candidates: the user's side.",
    features=[user_profile, user_activity, user_history, user_category_activity, request_time],
)

ranking_v1 = FeatureService(
    name="ranking_v1",
    description="What orders them: the user's side and the items'.",
    features=[
        user_profile,
        user_activity,
        user_history,
        user_category_activity,
        item_profile,
        item_activity,
        request_time,
    ],
)
