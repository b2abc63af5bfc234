"""The same user windows in Quix Streams, run in an environment of its own (``requirements.txt``).

Usage::

    python job.py --bootstrap 127.0.0.1:9092 --topic bench --events 200000 --state FOLDER

Settings are the documented fast ones: RocksDB state, ``current()`` results (a feature must be
readable after each event, so waiting for closed windows will not do), no output topic and, unless
``--changelog``, no changelog topic either: it does less than our worker, which stores its features
in Redis. Several aggregates of one window share one state by ``agg``.

Prints one JSON line: events handled, seconds of wall and of CPU from the first event to the last.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from datetime import timedelta

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Min, Sum

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WINDOWS = ((HOUR, 5 * MINUTE), (DAY, HOUR), (7 * DAY, DAY), (30 * DAY, DAY))
"""Windows and slides: five aggregates of each make twenty features."""


def main() -> None:
    """Consume the topic from its beginning until all its events are handled."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--state", required=True)
    parser.add_argument("--changelog", action="store_true")
    parser.add_argument(
        "--tumbling", action="store_true", help="one bucket per window: cheaper, another meaning"
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    app = Application(
        broker_address=options.bootstrap,
        consumer_group=f"quix-{time.time_ns()}",
        auto_offset_reset="earliest",
        state_dir=options.state,
        use_changelog_topics=options.changelog,
        loglevel="ERROR",
    )
    topic = app.topic(
        options.topic,
        value_deserializer="json",
        timestamp_extractor=lambda value, *_: value["event_time_ms"],
    )
    events = app.dataframe(topic)
    began: list[tuple[float, float]] = []
    handled = 0

    def note(_value: object) -> None:
        nonlocal handled
        if not began:
            began.append((time.perf_counter(), time.process_time()))
        handled += 1
        if handled == options.events:
            app.stop()

    events = events.update(note)
    for window, slide in WINDOWS:
        windowed = (
            events.tumbling_window(window, grace_ms=window)
            if options.tumbling
            else events.hopping_window(window, slide, grace_ms=window)
        )
        windowed.agg(
            count=Count(),
            sum=Sum("value"),
            mean=Mean("value"),
            min=Min("value"),
            max=Max("value"),
        ).current()
    app.run()
    wall_s, cpu_s = began[0]
    result = {
        "events": handled,
        "wall_s": time.perf_counter() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
