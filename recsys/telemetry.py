"""Every metric this system exports, with unit and meaning. Labels stay few.

Created on import in prometheus_client's default registry; processes expose them at ``/metrics``.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

from recsys.histograms import BulkHistogram

_LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip

REQUESTS = Counter("recsys_requests_total", "Requests answered by the API.", ["route", "status"])
REQUEST_SECONDS = Histogram(
    "recsys_request_seconds", "Time to answer a request.", ["route"], buckets=_LATENCY_BUCKETS_S
)
ACCESS_REFUSED = Counter(
    "recsys_access_refused_total",
    "Requests refused for who sent them, or how many.", ["route", "reason"],
)  # fmt: skip
RATE_UNDECIDED = Counter(
    "recsys_rate_undecided_total", "Requests that could not be counted in Redis for their key."
)
STAGE_SECONDS = Histogram(
    "recsys_stage_seconds", "Time one stage of a request took.", ["stage"],
    buckets=_LATENCY_BUCKETS_S,
)  # fmt: skip
MODEL_CALL_USERS = Histogram(
    "recsys_model_call_users", "Users put together in one call of the model server.", ["call"],
    buckets=(1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64),
)  # fmt: skip


@lru_cache(maxsize=64)
def stage_seconds(stage: str) -> Histogram:
    """Give the histogram of one stage: looked up once, not with a lock for each request."""
    return STAGE_SECONDS.labels(stage)


SERVED_BY_RUNG = Counter(
    "recsys_served_by_rung_total", "Answers by the rung that served them (`recsys/wire/`).",
    ["rung"],
)  # fmt: skip


@lru_cache(maxsize=16)
def served_by(rung: str) -> Counter:
    """Give the counter of one rung's answers, looked up once."""
    return SERVED_BY_RUNG.labels(rung)


STAGE_FAILURES = Counter(
    "recsys_stage_failures_total", "Stages that failed or ran out of time.", ["stage", "reason"]
)
CATALOGUE_CHANGES = Counter(
    "recsys_catalogue_changes_total", "Item events taken into a process's picture of the catalogue."
)
CATALOGUE_CHANGE_AGE_SECONDS = Histogram(
    "recsys_catalogue_change_age_seconds",
    "From when the log received an item event until it was taken in; those from before a bundle "
    "was taken up apart.",
    buckets=(*_LATENCY_BUCKETS_S, 5.0, 10.0, 60.0),
)
CATALOGUE_CHANGES_LATE = Counter(
    "recsys_catalogue_changes_late_total", "Item events taken in more than 2 seconds after that."
)
CATALOGUE_CREATED = Counter(
    "recsys_catalogue_created_total",
    "Items that came after a bundle was made and were given a row beside its own.",
)
CATALOGUE_NOT_CREATED = Counter(
    "recsys_catalogue_not_created_total",
    "Events of items for which there was no row left (`RECSYS_MAX_CREATED_ITEMS`).",
)
CATALOGUE_FOLLOW_FAILURES = Counter(
    "recsys_catalogue_follow_failures_total", "Times the item topic could not be read."
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
STREAM_REBALANCES = Counter(
    "recsys_stream_rebalances_total", "Times this worker's share of the partitions was decided."
)
STREAM_REFUSED_WRITES = Counter(
    "recsys_stream_refused_writes_total",
    "Writes of an entity that another worker had written meanwhile; made again at once.",
)
STREAM_RESTARTS = Counter(
    "recsys_stream_restarts_total",
    "Times a worker forgot its state because the online store was restarted, lost or backfilled.",
)
STREAM_LATE_EVENTS = Counter(
    "recsys_stream_late_events_total",
    "Events applied over a minute behind the newest event time of their partition.",
)
STREAM_WATERMARK = Gauge(
    "recsys_stream_watermark_seconds",
    "Newest event time applied, seconds since 1970 UTC.",
    ["topic", "partition"],
)
EVENT_LOG_STALLED = Gauge(
    "recsys_event_log_stalled_partitions",
    "Partitions this worker applies but cannot write to the event log: disk full, or not let go.",
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
_FRESHNESS_BUCKETS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86_400,
)  # fmt: skip
APPEND_TO_SERVABLE_SECONDS = BulkHistogram(
    "recsys_append_to_servable_seconds",
    "From the log's receipt of an event to its features being readable, by view.",
    "view",
    _FRESHNESS_BUCKETS_S,
)
EVENT_TO_SERVABLE_SECONDS = BulkHistogram(
    "recsys_event_to_servable_seconds",
    "From an event's own time to its features being readable, by view.",
    "view",
    _FRESHNESS_BUCKETS_S,
)
PROBE_APPEND_TO_SERVABLE_SECONDS = BulkHistogram(
    "recsys_probe_append_to_servable_seconds",
    "From the log's receipt of a tracer to a reader finding it in the online store, by view.",
    "view",
    _FRESHNESS_BUCKETS_S,
)
PROBE_EVENT_TO_SERVABLE_SECONDS = BulkHistogram(
    "recsys_probe_event_to_servable_seconds",
    "From a tracer's own time to a reader finding it in the online store, by view.",
    "view",
    _FRESHNESS_BUCKETS_S,
)
PROBE_LOST = Counter(
    "recsys_probe_lost_total", "Tracers that were not servable within the time-out.", ["view"]
)
TRACER_SEEN_SECONDS = BulkHistogram(
    "recsys_tracer_seen_seconds",
    "From sending a tracer's event to the first answer of the API that shows it, by path.",
    "path",
    _FRESHNESS_BUCKETS_S,
)
TRACER_UNSEEN = Counter(
    "recsys_tracer_unseen_total",
    "Tracers' events that were not accepted, or not seen within the time-out.",
    ["path"],
)
CHILD_RESTARTS = Counter(
    "recsys_child_restarts_total", "Crashed servers started again by `recsys up`.", ["server"]
)
EXPOSURES_DROPPED = Counter(
    "recsys_exposures_dropped_total",
    "Exposures neither logged nor spooled: too many at once, or the spool took no more.",
)
SPOOL_BYTES = Gauge(
    "recsys_spool_bytes", "Bytes on disk that wait for the event log.", ["spool"],
    multiprocess_mode="livesum",
)  # fmt: skip
SPOOL_RECORDS = Gauge(
    "recsys_spool_records", "Records on disk that wait for the event log.", ["spool"],
    multiprocess_mode="livesum",
)  # fmt: skip
SPOOL_OLDEST_SECONDS = Gauge(
    "recsys_spool_oldest_seconds", "How long the oldest of them waits; 0 without any.", ["spool"],
    multiprocess_mode="livemax",
)  # fmt: skip
SPOOL_TAKEN = Counter(
    "recsys_spool_taken_total", "Records written to disk because the event log was away.",
    ["spool"],
)  # fmt: skip
SPOOL_SENT = Counter(
    "recsys_spool_sent_total", "Records from disk that the event log acknowledged.", ["spool"]
)
SPOOL_REFUSED = Counter(
    "recsys_spool_refused_total",
    "Records the spool had no room for, by reason: full, old, disk; or the log no use: record.",
    ["spool", "reason"],
)
BUNDLE_SWITCHES = Counter("recsys_bundle_switches_total", "Times the API took up another bundle.")
BUNDLES_SERVED = Gauge(
    "recsys_bundles_served", "Bundles in service: the live one, those beside.",
    multiprocess_mode="livemax",
)  # fmt: skip
ITEM_FEATURES_AGE_SECONDS = Gauge(
    "recsys_item_features_age_seconds", "Age of the moving item features in the latest answer.",
    multiprocess_mode="livemax",
)  # fmt: skip
ITEM_FEATURES_LATE = Counter(
    "recsys_item_features_late_total",
    "Answers ranked by moving item features older than RECSYS_ITEM_FEATURES_MAX_AGE_MS.",
)
ANSWERS_EXPLORED = Counter(
    "recsys_answers_explored_total", "Recommendations drawn by a policy of exploration.", ["policy"]
)
RULES_READ = Counter(
    "recsys_rules_read_total", "Times the operator's rules changed: taken up, or refused.",
    ["outcome"],
)  # fmt: skip
RULES_UNKNOWN_NAMES = Gauge(
    "recsys_rules_unknown_names",
    "Items, categories and tags in the operator's rules that the live bundle does not have.",
    multiprocess_mode="livemax",
)
BREAKER_STATE = Gauge(
    "recsys_breaker_state",
    "Whether a server behind is asked: 0 it is, 1 by one call at a time, 2 not.",
    ["server"],
    multiprocess_mode="livemax",
)
BREAKER_OPENED = Counter(
    "recsys_breaker_opened_total", "Times a server was no longer asked.", ["server"]
)
HEDGED_READS = Counter(
    "recsys_hedged_reads_total",
    "Reads of the online store sent a second time (`sent`), and answered by it first (`won`).",
    ["outcome"],
)
ADMISSION_LIMIT = Gauge(
    "recsys_admission_limit", "Recommendation and rank requests that may be at work at once.",
    multiprocess_mode="livesum",
)  # fmt: skip
ADMITTED = Counter(
    "recsys_admission_turned_away_total",
    "Requests above the limit: answered from memory, or refused.",
    ["verdict"],
)
