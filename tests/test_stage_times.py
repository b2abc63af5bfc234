"""Each request knows its own stages, however many run beside each other."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.loadtest.server_timing import note_stages as read_header
from recsys.stage_times import note_stages, server_timing, stage
from recsys.telemetry import stage_seconds


async def request(name: str, seconds: float) -> dict[str, list[float]]:
    note_stages()
    with stage("features"):
        await asyncio.sleep(seconds)
    with pytest.raises(KeyError), stage(name):
        raise KeyError(name)
    found: dict[str, list[float]] = {}
    read_header(server_timing().encode(), found)
    return found


def test_requests_at_the_same_time_have_their_own() -> None:
    async def both() -> list[dict[str, list[float]]]:
        return await asyncio.gather(request("recommend", 0.03), request("rank", 0.001))

    slow, quick = asyncio.run(both())
    assert list(slow) == ["features", "recommend"] and list(quick) == ["features", "rank"]
    assert slow["features"][0] >= 30.0 > 15.0 > quick["features"][0] >= 1.0


def test_without_a_request_only_the_metric_is_told() -> None:
    before = stage_seconds("elsewhere")._sum.get()
    with stage("elsewhere"):
        pass
    assert server_timing() == ""
    assert stage_seconds("elsewhere")._sum.get() > before
