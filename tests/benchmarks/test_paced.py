"""The generator counts waiting from the moment a request was due; the server cannot slow it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import uvloop

from benchmarks.loadtest.connection import prepare_post
from benchmarks.loadtest.paced import Paced, paced_http
from benchmarks.loadtest.queue_server import QueueServer

_FULL = b'{"rung":"full"}'
BOTH = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def _against(due_s: np.ndarray, server: QueueServer, **how: Any) -> Paced:
    async with server:
        request = prepare_post("127.0.0.1", server.port, "/", b"{}")
        port = server.port
        pacer = paced_http([request] * len(due_s), due_s, host="127.0.0.1", port=port, **how)
        return await pacer.run()


@BOTH
def test_a_paused_server_shows_its_pause_in_p99(run: Callable[..., Paced]) -> None:
    due_s = np.arange(200) * 0.005
    paced = run(_against(due_s, QueueServer(pause_at=100, pause_s=0.5)))
    assert paced.answers == {"200": 200}
    # 100 requests fell due during the pause: a closed loop would have seen one slow answer.
    assert paced.percentile_ms(99) > 450
    assert paced.percentile_ms(75) > 200


def test_what_waits_behind_a_slow_answer_is_counted_from_when_it_was_due() -> None:
    paced = asyncio.run(_against(np.zeros(3), QueueServer(service_s=0.05, body=_FULL)))
    assert paced.answers == {"200 full": 3}
    assert (np.sort(paced.latency_s) >= np.array([0.05, 0.10, 0.15]) - 0.01).all()
    assert paced.percentile_ms(99) >= 140


def test_a_run_ends_when_the_server_has_lost() -> None:
    server = QueueServer(service_s=1.0)
    paced = asyncio.run(_against(np.arange(0, 1, 0.002), server, max_waiting=20))
    assert paced.given_up
    assert paced.answers["unanswered"] > 20
    assert paced.percentile_ms(99) == float("inf")


@BOTH
def test_an_unreachable_server_is_an_error_not_a_crash(run: Callable[..., Paced]) -> None:
    paced = run(paced_http([b"x"] * 3, np.zeros(3), host="127.0.0.1", port=1).run())
    assert paced.answers == {"error: not connected (ConnectionRefusedError)": 3}
    assert np.isnan(paced.latency_s).all()
    assert not np.isnan(paced.waited_s).any()


def test_an_answer_that_does_not_come_in_time_is_an_error_and_not_the_next_ones() -> None:
    server = QueueServer(service_s=0.0, pause_at=1, pause_s=3.0)
    paced = asyncio.run(_against(np.array([0.0, 2.7, 3.2]), server, timeout_s=1.5))
    assert paced.labels == ["error: timeout", "200", "200"]
    assert 1.5 <= paced.waited_s[0] < 3.0
    assert paced.latency_s[1] > 0.05, "from its own answer"


def test_stopped_it_waits_for_what_is_under_way() -> None:
    async def run() -> Paced:
        async with QueueServer(service_s=0.05) as server:
            request = prepare_post("127.0.0.1", server.port, "/", b"{}")
            due_s = np.array([0.0, 0.0, 60.0])
            pacer = paced_http([request] * 3, due_s, host="127.0.0.1", port=server.port)
            running = asyncio.ensure_future(pacer.run())
            while pacer.num_due < 2:
                await asyncio.sleep(0.005)
            pacer.stop()
            return await running

    paced = asyncio.run(run())
    assert paced.labels == ["200", "200"]
    assert paced.elapsed_s < 30.0


def test_a_request_that_cannot_be_made_ends_the_run() -> None:
    class Broken(list[bytes]):
        def __getitem__(self, number: Any) -> Any:
            raise KeyError("no such user")

    with pytest.raises(KeyError, match="no such user"):
        asyncio.run(_broken(Broken([b"x"])))


async def _broken(requests: list[bytes]) -> Paced:
    async with QueueServer() as server:
        return await paced_http(requests, np.zeros(1), host="127.0.0.1", port=server.port).run()


@BOTH
def test_the_queue_goes_on_when_one_who_waits_has_left(run: Callable[..., Paced]) -> None:
    async def answered() -> Paced:
        async with QueueServer(service_s=0.05) as server:
            request = prepare_post("127.0.0.1", server.port, "/", b"{}")
            for _ in range(2):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(request)
                await asyncio.sleep(0.01)
                writer.close()
            where = {"host": "127.0.0.1", "port": server.port}
            return await paced_http([request], np.zeros(1), timeout_s=5.0, **where).run()

    assert run(answered()).labels == ["200"]


def test_key_is_sent_where_there_is_one() -> None:
    assert b"Authorization" not in prepare_post("api", 80, "/", b"{}")
    head, _, body = prepare_post("api", 80, "/", b"{}", "secret").partition(b"\r\n\r\n")
    assert b"Authorization: Bearer secret" in head.split(b"\r\n") and body == b"{}"
