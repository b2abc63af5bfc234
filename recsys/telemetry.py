"""Every metric this system exports, with unit and meaning. Labels stay few.

Created on import in prometheus_client's default registry; processes expose them at ``/metrics``.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip

REQUESTS = Counter("recsys_requests_total", "Requests answered by the API.", ["route", "status"])
REQUEST_SECONDS = Histogram(
    "recsys_request_seconds", "Time to answer a request.", ["route"], buckets=_LATENCY_BUCKETS_S
)
STAGE_SECONDS = Histogram(
    "recsys_stage_seconds", "Time one stage of a request took.", ["stage"],
    buckets=_LATENCY_BUCKETS_S,
)  # fmt: skip
SERVED_BY_RUNG = Counter(
    "recsys_served_by_rung_total", "Recommendations by the fallback rung that served them.",
    ["rung"],
)  # fmt: skip
STAGE_FAILURES = Counter(
    "recsys_stage_failures_total", "Stages that failed or ran out of time.", ["stage", "reason"]
)
EVENTS_ACCEPTED = Counter(
    "recsys_events_accepted_total", "Events acknowledged by the log.", ["kind"]
)
EVENTS_REFUSED = Counter("recsys_events_refused_total", "Events refused at the border.", ["reason"])
DEAD_LETTERS = Counter(
    "recsys_dead_letters_total", "Records of the log that could not be read.", ["topic"]
)
STREAM_EVENTS = Counter("recsys_stream_events_total", "Events applied to features.", ["kind"])
STREAM_DUPLICATES = Counter(
    "recsys_stream_duplicates_total", "Events skipped because they were applied before."
)
STREAM_LAG = Gauge(
    "recsys_stream_lag_records", "Records not yet applied to features.", ["topic", "partition"]
)
FRESHNESS_SECONDS = Histogram(
    "recsys_freshness_seconds", "From log append to servable feature.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)  # fmt: skip
FEATURE_VALUES = Counter(
    "recsys_feature_rows_total", "Rows of a view seen by the checks in the stream.", ["view"]
)
FEATURE_VIOLATIONS = Counter(
    "recsys_feature_violations_total",
    "Values about to be served that break an expectation declared in feature_repo.",
    ["view", "feature", "rule"],
)
CHILD_RESTARTS = Counter(
    "recsys_child_restarts_total", "Crashed servers started again by `recsys up`.", ["server"]
)
EXPOSURES_DROPPED = Counter(
    "recsys_exposures_dropped_total", "Exposures not logged because the event log was away."
)
BUNDLE_SWITCHES = Counter("recsys_bundle_switches_total", "Times the API took up another bundle.")
ITEM_FEATURES_AGE_SECONDS = Gauge(
    "recsys_item_features_age_seconds", "Age of the moving item features in the latest answer."
)
