"""``python -m benchmarks.event_codec``: decode and validate an event, msgspec beside pydantic.

The pydantic model states the same constraints as ``recsys/events/schema.py``. Rounds alternate in
one process; the ratio of the medians is the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from recsys.events.codec import decode

_ROUNDS = 7
_BODY = (
    b'{"kind":"interaction","event_id":"e-123456","event_time_ms":1700000000000,'
    b'"user_id":"17850","item_id":"85123A","type":"purchase","value":6.0,'
    b'"request_id":"r-1","position":3}'
)
_Identifier = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
]  # fmt: skip


class _Interaction(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["interaction"]
    event_id: _Identifier
    event_time_ms: Annotated[int, Field(ge=946_684_800_000)]
    schema_version: Literal[1] = 1
    user_id: _Identifier
    item_id: _Identifier
    type: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_]*$")]
    value: Annotated[float, Field(ge=-1e12, le=1e12)] = 1.0
    request_id: _Identifier | None = None
    position: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    context: dict[str, str] = {}


def _microseconds(read: Callable[[bytes], object], events: int) -> float:
    start = time.perf_counter()
    for _ in range(events):
        read(_BODY)
    return (time.perf_counter() - start) / events * 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both; print one JSON result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_codec")
    parser.add_argument("--events", type=int, default=50_000, help="a round")
    options = parser.parse_args(argv)
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(_microseconds(decode, options.events))
        theirs.append(_microseconds(_Interaction.model_validate_json, options.events))
    result = {
        "benchmark": "event_codec",
        "msgspec_us": round(statistics.median(ours), 3),
        "pydantic_us": round(statistics.median(theirs), 3),
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 2),
        "versions": {name: version(name) for name in ("msgspec", "pydantic")},
        "bytes": len(_BODY),
        "rounds": _ROUNDS,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
