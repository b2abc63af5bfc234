"""Arrow's memory comes from elsewhere while somebody joins, and as before when all have left."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

from recsys.features.offline_store.plain_pages import plain_pages


def backend() -> str:
    return str(pa.default_memory_pool().backend_name)


def test_the_last_to_leave_puts_back_what_was_there() -> None:
    before = backend()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with plain_pages():
            entered.set()
            leave.wait(10.0)

    thread = threading.Thread(target=other)
    with plain_pages():
        thread.start()
        assert entered.wait(10.0) and backend() == "system"
    assert backend() == "system", "somebody is still at it"
    leave.set()
    thread.join()
    assert backend() == before
    with pytest.raises(KeyError), plain_pages():
        raise KeyError
    assert backend() == before
