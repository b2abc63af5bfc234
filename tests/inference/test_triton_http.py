"""Calls over HTTP when the other side misbehaves; a real Triton: ``test_triton_tensors.py``."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from recsys.deadline import Deadline
from recsys.errors import DeadlineExceededError, StageError
from recsys.inference.model import Arrays
from recsys.inference.triton_http import TritonHttp

HEAD = (
    b'{"outputs":[{"name":"y","datatype":"INT32","shape":[1,2],'
    b'"parameters":{"binary_data_size":8}}]}'
)
TENSOR = np.array([[7, 8]], dtype=np.int32).tobytes()


def answer(status: int, head: bytes, tensors: bytes = b"") -> bytes:
    return (
        (
            f"HTTP/1.1 {status} x\r\nInference-Header-Content-Length: {len(head)}\r\n"
            f"Content-Length: {len(head) + len(tensors)}\r\n\r\n"
        ).encode()
        + head
        + tensors
    )


GOOD = answer(200, HEAD, TENSOR)


class Peer:
    """Gives the answers in turn: bytes, ``b""`` for hanging up, ``None`` for silence."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.num_connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(size))
                given = self.answers.pop(0)
                if given is None:
                    await reader.read()
                    return
                if not given:
                    return
                writer.write(given)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


async def asked(peer: Peer, *budgets_ms: float) -> list[Arrays | StageError]:
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    calls = TritonHttp("127.0.0.1", server.sockets[0].getsockname()[1])
    inputs = {"x": np.array([[1, 2, 3]], dtype=np.int64), "flag": np.array([[True]])}
    found: list[Arrays | StageError] = []
    for budget_ms in budgets_ms:
        try:
            deadline = Deadline.after_ms(budget_ms)
            found.append(await calls.infer("m", inputs, ("y",), deadline, stage="rank"))
        except StageError as error:
            found.append(error)
    calls.close()
    server.close()
    await server.wait_closed()
    return found


def test_calls_share_a_connection_and_tensors_travel_as_they_are() -> None:
    peer = Peer(GOOD, GOOD)
    for found in asyncio.run(asked(peer, 5_000, 5_000)):
        assert isinstance(found, dict) and found["y"].tolist() == [[7, 8]]
    assert peer.num_connections == 1
    assert peer.requests[0].startswith(b"POST /v2/models/m/infer HTTP/1.1\r\n")
    assert peer.requests[0].endswith(np.array([1, 2, 3], dtype="<i8").tobytes() + b"\x01")


def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    peer = Peer(GOOD, b"", GOOD)
    first, second = asyncio.run(asked(peer, 5_000, 5_000))
    assert isinstance(first, dict) and isinstance(second, dict)
    assert peer.num_connections == 2 and len(peer.requests) == 3


def test_more_calls_than_connections_wait_for_their_turn() -> None:
    peer = Peer(*[GOOD] * 5)

    async def ask_at_once() -> list[Arrays]:
        server = await asyncio.start_server(peer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        calls = TritonHttp("127.0.0.1", port, max_connections=2)
        inputs = {"x": np.array([[1, 2, 3]], dtype=np.int64)}
        found = await asyncio.gather(
            *(
                calls.infer("m", inputs, ("y",), Deadline.after_ms(5_000), stage="s")
                for _ in "12345"
            )
        )
        calls.close()
        server.close()
        await server.wait_closed()
        return found

    assert len(asyncio.run(ask_at_once())) == 5
    assert peer.num_connections == 2


def test_one_that_hangs_up_on_everybody_is_said() -> None:
    (found,) = asyncio.run(asked(Peer(b""), 5_000))
    assert isinstance(found, StageError) and "closed" in str(found)


def test_silence_ends_with_the_deadline_and_with_the_connection() -> None:
    peer = Peer(None, GOOD)
    late, good = asyncio.run(asked(peer, 50, 5_000))
    assert isinstance(late, DeadlineExceededError) and isinstance(good, dict)
    assert peer.num_connections == 2, "its answer may still come on the first"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (answer(400, b'{"error":"no such model"}'), "HTTP 400: no such model"),
        (answer(503, b"busy"), "a broken answer"),
        (answer(200, HEAD, TENSOR[:3]), "a broken answer"),
        (answer(200, b"{}", TENSOR), "a broken answer"),
        (b"SSH-2.0\r\n\r\n", "not HTTP"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(given: bytes, said: str) -> None:
    (found,) = asyncio.run(asked(Peer(given), 5_000))
    assert isinstance(found, StageError) and said in str(found)
