"""A past answer's exposure, found by the id of its request.

The Parquet log first. Ids made by the API say when (``request_ids.py``), so one date's narrow
column is read; for ids of callers it is that of every date. What is not in files yet, a minute at
most, is looked for in Kafka, from where the files end.
"""

from __future__ import annotations

import polars as pl

from recsys.clock import MINUTE_MS
from recsys.endpoints import Endpoints
from recsys.events.log import TopicPartition
from recsys.events.log_files import commits
from recsys.events.topics import Topics
from recsys.feedback.exposure import Exposure
from recsys.feedback.exposure_log import exposure_of, scan_exposures, to_exposures
from recsys.feedback.request_ids import made_ms
from recsys.settings import Settings

_AROUND_MS = 5 * MINUTE_MS
"""How far the clocks of API processes may be apart, and an answer from its id."""
_BATCH = 1_000


def find_exposure(settings: Settings, endpoints: Endpoints, request_id: str) -> Exposure | None:
    """Give the first exposure of a request; ``None`` when no log has it.

    Raises:
        ServerError: when it is not in files and Kafka does not answer.
    """
    topic = Topics(namespace=settings.namespace).exposures
    made = made_ms(request_id)
    start_ms, end_ms = (None, None) if made is None else (made - _AROUND_MS, made + _AROUND_MS)
    log_dir = settings.event_log_dir
    rows = scan_exposures(log_dir, [topic], start_ms=start_ms, end_ms=end_ms)
    places = ("topic", "partition", "offset")
    narrow = rows.filter(pl.col("request_id") == request_id).select("now_ms", *places).collect()
    if len(narrow):
        now_ms, *place = narrow.sort("now_ms", *places).row(0)
        whole = scan_exposures(log_dir, [topic], start_ms=now_ms, end_ms=now_ms + 1)
        at = pl.all_horizontal(pl.col(name) == value for name, value in zip(places, place))  # noqa: B905
        return next(to_exposures(whole.filter(at).collect()))
    return _find_in_kafka(settings, endpoints, topic, request_id)


def _find_in_kafka(
    settings: Settings, endpoints: Endpoints, topic: str, request_id: str
) -> Exposure | None:
    # Imported where it is needed: most answers are in files.
    from recsys.events.kafka import connect_reader

    logged: dict[int, int] = {}
    for one in commits(settings.event_log_dir, topic):
        logged[one.range.partition] = max(logged.get(one.range.partition, 0), one.range.last + 1)
    reader = connect_reader(
        settings, endpoints, topics=[topic], group=f"{settings.namespace}.replay"
    )
    said = request_id.encode()
    try:
        bounds = reader.bounds(reader.assignment())
        begin: dict[TopicPartition, int] = {}
        left = 0
        for at, (first, end) in bounds.items():
            begin[at] = min(max(first, logged.get(at.partition, 0)), end)
            left += end - begin[at]
        reader.seek(begin)
        while left > 0:
            records = reader.poll(timeout_ms=2_000, max_records=_BATCH)
            if not records:
                return None
            left -= len(records)
            for record in records:
                if said in record.value:  # before decoding, which costs a hundred times as much
                    exposure = exposure_of(record)
                    if exposure is not None and exposure.request_id == request_id:
                        return exposure
    finally:
        reader.close()
    return None
