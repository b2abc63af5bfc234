"""The generator counts waiting from the moment a request was due; the server cannot slow it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import uvloop

from benchmarks.loadtest.arrivals import poisson_arrivals_s, zipf_users
from benchmarks.loadtest.connection import ConnectionPool, prepare_post
from benchmarks.loadtest.open_loop import Outcome, run_open_loop


async def _against_stub(
    due_s: np.ndarray, *, service_s: float, pause_at: int | None = None
) -> Outcome:
    """One worker that answers in order, each after ``service_s``; may pause a second once."""
    lock = asyncio.Lock()
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                async with lock:
                    served += 1
                    await asyncio.sleep(1.0 if served == pause_at else service_s)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = ConnectionPool("127.0.0.1", port)
    request = prepare_post("127.0.0.1", port, "/", b"{}")
    outcome = await run_open_loop([request] * len(due_s), due_s, pool)
    pool.close()
    server.close()
    await asyncio.sleep(0.1)  # lets both ends of every connection say good-bye
    return outcome


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_paused_server_shows_its_pause_in_p99(run: Callable[..., Outcome]) -> None:
    due_s = np.arange(200) * 0.01
    outcome = run(_against_stub(due_s, service_s=0.0, pause_at=100))
    assert outcome.statuses == {"200": 200}
    # 100 requests fell due during the pause: a closed loop would have seen one slow answer.
    assert outcome.percentile_ms(99) > 900
    assert outcome.percentile_ms(75) > 300


def test_an_unreachable_server_is_an_error_not_a_crash() -> None:
    pool = ConnectionPool("127.0.0.1", 1)
    outcome = asyncio.run(run_open_loop([b"x"] * 3, np.zeros(3), pool))
    assert outcome.statuses == {"error:ConnectionRefusedError": 3}
    assert outcome.histogram.get_total_count() == 3


def test_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    rng = np.random.default_rng(7)
    due_s = poisson_arrivals_s(rate_per_s=1000, duration_s=20, rng=rng)
    assert len(due_s) == pytest.approx(20_000, rel=0.03)
    gaps = np.diff(due_s)
    assert np.all(gaps >= 0)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)


def test_zipf_users_prefer_the_head_and_refuse_an_empty_list() -> None:
    rng = np.random.default_rng(7)
    users = zipf_users(["a", "b", "c"], 10_000, exponent=1.0, rng=rng)
    assert users.count("a") / 10_000 == pytest.approx(6 / 11, abs=0.02)
    with pytest.raises(ValueError, match="at least one user"):
        zipf_users([], 1, exponent=1.0, rng=rng)


def test_key_is_sent_where_there_is_one() -> None:
    assert b"Authorization" not in prepare_post("api", 80, "/", b"{}")
    head, _, body = prepare_post("api", 80, "/", b"{}", "secret").partition(b"\r\n\r\n")
    assert b"Authorization: Bearer secret" in head.split(b"\r\n") and body == b"{}"
