"""Why tensors cross Triton's Python backend by DLPack: an array loses its data on the way.

``pb_utils.Tensor(name, ndarray)`` under NumPy 2 gives a tensor of the right shape with no bytes in
it, and no error. If this test begins to fail, Triton has mended it.
"""

from __future__ import annotations

import asyncio
import sysconfig
import uuid

import numpy as np
import pytest

from recsys.deadline import Deadline
from recsys.errors import DeadlineExceededError, ServerError, StageError
from recsys.inference.model import Arrays
from recsys.inference.triton import TritonServer
from tests.servers import TritonServer as TritonFixture

pytestmark = pytest.mark.servers

MODEL = """
import site, sys
before = list(sys.path)
site.addsitedir({purelib!r})
sys.path[:] = [p for p in sys.path if p not in before] + before
import numpy, time, torch
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            given = {{t.name(): torch.from_dlpack(t.to_dlpack()) for t in request.inputs()}}
            if given["flag"].any():
                time.sleep(0.3)
            answers.append(pb_utils.InferenceResponse([
                pb_utils.Tensor.from_dlpack("flag_out", given["flag"].contiguous()),
                pb_utils.Tensor.from_dlpack("whole_out", given["whole"] + 1),
                pb_utils.Tensor("by_array", given["whole"].numpy() + 1),
            ]))
        return answers
"""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input {{ name: "flag" data_type: TYPE_BOOL dims: [1] }}
input {{ name: "whole" data_type: TYPE_INT64 dims: [-1] }}
output {{ name: "flag_out" data_type: TYPE_BOOL dims: [1] }}
output {{ name: "whole_out" data_type: TYPE_INT64 dims: [-1] }}
output {{ name: "by_array" data_type: TYPE_INT64 dims: [-1] }}
"""


def test_dlpack_keeps_the_data_and_an_array_does_not(triton: TritonFixture) -> None:
    name = f"tensors_{uuid.uuid4().hex[:8]}"
    folder = triton.model_repository / name
    (folder / "1").mkdir(parents=True)
    purelib = sysconfig.get_paths()["purelib"]
    (folder / "1" / "model.py").write_text(MODEL.format(purelib=purelib))
    (folder / "config.pbtxt").write_text(CONFIG.format(name=name))
    whole = np.array([[1, 2, 2**40]], dtype=np.int64)

    async def ask(server: TritonServer, outputs: list[str], *, slow: bool = False) -> Arrays:
        inputs = {"flag": np.array([[slow]]), "whole": whole}
        budget_ms = 100 if slow else 10_000
        return await server.infer(name, inputs, outputs, Deadline.after_ms(budget_ms), stage="rank")

    async def talk(url: str) -> None:
        async with TritonServer(url) as server:
            assert await server.is_ready()
            assert not await server.is_model_ready(name)
            await server.load(name)
            assert await server.is_model_ready(name)
            assert name in await server.loaded_models()
            answer = await ask(server, ["flag_out", "whole_out"])
            assert answer["whole_out"].tolist() == (whole + 1).tolist()
            assert answer["flag_out"].tolist() == [[False]]
            with pytest.raises(StageError):
                await ask(server, ["by_array"])
            with pytest.raises(DeadlineExceededError):
                await ask(server, ["whole_out"], slow=True)
            await server.unload(name)
            with pytest.raises(StageError, match=name):
                await ask(server, ["whole_out"])
            with pytest.raises(ServerError, match="no_such_model"):
                await server.load("no_such_model")
        for address in ("127.0.0.1:9", "grpc://127.0.0.1:9?http_port=9"):
            async with TritonServer(address) as nobody:
                assert not await nobody.is_ready(timeout_s=0.5)
                with pytest.raises(StageError):
                    await ask(nobody, ["whole_out"])

    for url in (triton.grpc_url, triton.calls_url):
        asyncio.run(talk(url))
