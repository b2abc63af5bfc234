"""A model that stood still while Triton loaded it does not stay "loading" for good."""

from __future__ import annotations

import asyncio
import signal
import sys
import sysconfig
import time
import uuid
from pathlib import Path

import psutil
import pytest

from recsys.inference.triton import TritonServer
from tests.servers import TritonServer as TritonFixture

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(sys.platform != "linux", reason="no /proc"),
]

MODEL = """
import site, sys, time
from pathlib import Path
from types import ModuleType

for path in ({checkout!r}, {purelib!r}):
    site.addsitedir(path)
sys.path[:] = [{checkout!r}, {purelib!r}] + sys.path

class ServedModel:
    def __init__(self, args):
        began = Path({began!r})
        if not began.exists():
            began.touch()
            time.sleep(4)
    def start(self):
        pass
    def stop(self):
        pass

backend = ModuleType("backend")
backend.ServedModel = ServedModel
sys.modules["serving.model_repository.backend"] = backend
from serving.model_repository.gentle_start import TritonPythonModel
"""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input {{ name: "a" data_type: TYPE_BOOL dims: [1] }}
output {{ name: "b" data_type: TYPE_BOOL dims: [1] }}
parameters {{ key: "bundle_path" value: {{ string_value: "/of/no/store" }} }}
"""


def process_of(name: str) -> psutil.Process:
    """Give the process of a model: a child of Triton's, which may have forked another."""
    (found,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"/{name}/" in part for part in process.info["cmdline"] or [])
        and (parent := process.parent())
        and parent.name() == "tritonserver"
    )
    return found


def test_what_stood_still_while_it_loaded_is_loaded_again(
    triton: TritonFixture, tmp_path: Path
) -> None:
    name, began = f"still_{uuid.uuid4().hex[:8]}", tmp_path / "began"
    folder = triton.model_repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(
        MODEL.format(
            checkout=str(Path(__file__).parents[3]),
            purelib=sysconfig.get_paths()["purelib"],
            began=str(began),
        )
    )
    (folder / "config.pbtxt").write_text(CONFIG.format(name=name))
    asyncio.run(stop_while_it_loads(triton.grpc_url, name, began))


async def stop_while_it_loads(url: str, name: str, began: Path) -> None:
    async with TritonServer(url) as server:
        loading = asyncio.create_task(server.load(name))
        ends_s = time.monotonic() + 60
        while not began.exists():
            assert time.monotonic() < ends_s
            await asyncio.sleep(0.02)
        process = process_of(name)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        process.send_signal(signal.SIGCONT)
        await loading
        assert await server.is_model_ready(name)
        assert process_of(name).pid != process.pid, "the first was taken for dead"
        await server.unload(name)
