"""The client against the whole API in memory, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import recsys
from recsys.client import ClientConfig, NotFoundError, NothingPublishedError
from recsys.clock import now_ms
from recsys.errors import InputError, ServerError, StageError
from recsys.events.schema import InteractionEvent
from tests.serving.api.memory_api import memory_api

FAST = ClientConfig(timeout_s=5.0, retries=2, backoff_s=0.01)


@contextmanager
def served(answers: list[tuple[int, object]]) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that gives ``answers`` in order, then the last one for ever."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = answers[min(len(seen), len(answers) - 1)]
            seen.append(f"{self.command} {self.path}")
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def error(code: str, field: str = "") -> dict[str, object]:
    return {"error": {"code": code, "message": "because", "field": field}}


def test_sync_and_async_clients_speak_the_whole_api() -> None:
    with memory_api() as api:

        async def talk() -> None:
            client = recsys.AsyncClient("http://api", FAST)
            client._http = api.client._http  # the app in this process
            answer = await client.recommend("ann", k=3, explain=True)
            assert len(answer.items) == 3
            assert answer.items[0].reasons is not None
            event = InteractionEvent(
                event_id="e1",
                event_time_ms=now_ms(),
                user_id="ann",
                item_id=answer.items[0].item_id,
                type="click",
                request_id=answer.request_id,
            )
            assert (await client.send_events([event, {"kind": "?"}])).accepted == 1
            page = await client.user("ann")
            assert page.known
            assert page.profile.status == "missing"
            ranked = await client.rank("ann", ["item-3", "new"])
            assert [item.known for item in ranked.items] == [True, False]
            assert len((await client.similar("item-3", k=2)).items) == 2
            assert (await client.ready()).ready
            with pytest.raises(NotFoundError):
                await client.similar("item/with?odd#letters")
            with pytest.raises(InputError) as caught:
                await client.recommend("ann", k=0)
            assert caught.value.field == "k"

        api.client._runner.run(talk())


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (422, error("invalid", "k"), InputError),
        (404, error("not_found", "item_id"), NotFoundError),
        (503, error("no_bundle"), NothingPublishedError),
        (503, error("unavailable"), StageError),
        (500, error("internal"), StageError),
        (200, {"what": 1}, ServerError),
        (502, "<html>", ServerError),
    ],
)
def test_every_error_is_one_of_ours(status: int, body: object, expected: type[Exception]) -> None:
    with (
        served([(status, body)]) as (url, _),
        recsys.Client(url, FAST) as client,
        pytest.raises(expected),
    ):
        client.user("ann")


def test_busy_server_is_tried_again_and_a_wrong_request_is_not() -> None:
    good = {"ready": True, "bundle": None, "checks": {}}
    similar = {"item_id": "a", "items": [], "bundle": "b", "took_ms": 1.0}
    with served([(503, error("overloaded")), (504, error("late")), (200, similar)]) as (url, seen):
        with recsys.Client(url, FAST) as client:
            assert client.similar("a").bundle == "b"
        assert len(seen) == 3
    with served([(422, error("invalid"))]) as (url, seen):
        with recsys.Client(url, FAST) as client, pytest.raises(InputError):
            client.similar("a")
        assert len(seen) == 1
    with served([(503, good | {"ready": False})]) as (url, seen):
        with recsys.Client(url, FAST) as client:
            assert client.ready().ready is False
        assert len(seen) == 1


def test_no_server_is_a_server_error() -> None:
    with recsys.Client("http://127.0.0.1:9", FAST) as client, pytest.raises(ServerError, match="9"):
        client.user("ann")

    async def ask() -> None:
        async with recsys.AsyncClient("http://127.0.0.1:9", FAST) as client:
            await client.user("ann")

    with pytest.raises(ServerError):
        asyncio.run(ask())
