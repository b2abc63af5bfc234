"""A process of the API with no server behind it: it starts, answers from the static list, stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import msgspec

from recsys.bundle.static_list import write_static_list
from tests.inference.toy_bundle import toy_bundle
from tests.servers import free_ports


def test_without_any_server_it_serves_the_static_list_and_drains(tmp_path: Path) -> None:
    state_dir = tmp_path / "var"
    write_static_list(state_dir / "static_list.json", toy_bundle())
    nobody = f"127.0.0.1:{free_ports(1)}"
    port = free_ports(1)
    environment = os.environ | {
        "RECSYS_STATE_DIR": str(state_dir),
        "RECSYS_API_PORT": str(port),
        "RECSYS_DRAIN_S": "1.0",
        "REDIS_URL": f"redis://{nobody}",
        "KAFKA_BOOTSTRAP_SERVERS": nobody,
        "TRITON_GRPC_URL": nobody,
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.api"], env=environment, stdout=output, stderr=output
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5.0) as client:
            _await_health(client, process, log)
            answer = client.post(
                "/v1/recommendations",
                json={"user_id": "ann", "k": 2, "history_item_ids": ["item-1"]},
            ).json()
            assert (answer["rung"], answer["bundle"]) == ("static", "toy")
            assert [item["item_id"] for item in answer["items"]] == ["item-2", "item-3"]
            ready = client.get("/readyz").json()  # for events: nothing is published here
            assert ready["ready"] is True
            assert not any(ready["checks"][part]["ok"] for part in ("redis", "kafka", "triton"))

            process.send_signal(signal.SIGTERM)
            told_s = time.monotonic()
            while "draining" not in client.get("/readyz").json()["checks"]:
                assert time.monotonic() - told_s < 1.0
            drained = client.post("/v1/recommendations", json={"user_id": "ann"}).json()
            assert drained["rung"] == "static", "requests are served while it drains"
        assert process.wait(timeout=20) == 0, log.read_text()
        assert time.monotonic() - told_s >= 1.0
    finally:
        process.kill()
        process.wait()


def test_a_damaged_static_list_is_said_and_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    from recsys.settings import Settings
    from serving.api.composition import _static_list

    settings = Settings(RECSYS_STATE_DIR=tmp_path)
    assert _static_list(settings) is None
    settings.static_list_path.write_bytes(msgspec.json.encode({"bundle_id": "x"}))
    assert _static_list(settings) is None


def _await_health(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + 30.0
    while time.monotonic() < until_s:
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"not up in 30 s: {log.read_text()}")
