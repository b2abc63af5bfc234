"""Where a service says its time went: the ``Server-Timing`` header of its answers.

``db;dur=53.2, app;desc="the app";dur=47`` is two stages (W3C Server Timing, section 3).
"""

from __future__ import annotations

import math
import re

_DURATION = re.compile(r';\s*dur\s*=\s*"?([0-9.eE+-]+)"?', re.IGNORECASE)
_METRIC = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_MOST_STAGES = 50
"""A service that makes names up for each answer must not fill the generator's memory."""


def note_stages(header: bytes, stages: dict[str, list[float]]) -> None:
    """Append the milliseconds of each stage that has a duration; what is malformed is passed over.

    >>> found = {}
    >>> note_stages(b'db;dur=53.2, app;desc="a, b";dur=47, miss', found)
    >>> found
    {'db': [53.2], 'app': [47.0]}
    """
    for metric in _METRIC.findall(header.decode("latin-1")):
        name = metric.split(";")[0].strip()
        duration = _DURATION.search(metric)
        if duration is None or not name:
            continue
        try:
            value = float(duration[1])
        except ValueError:
            continue
        if math.isfinite(value) and (name in stages or len(stages) < _MOST_STAGES):
            stages.setdefault(name, []).append(value)
