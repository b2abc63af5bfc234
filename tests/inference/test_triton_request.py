"""A call's message is put together as bytes: the generated classes read what was meant."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import service_pb2

from recsys.inference.triton import request_bytes


def test_a_message_of_bytes_is_the_one_the_generated_classes_would_make() -> None:
    for num_users in (1, 3, 1, 200):  # the same names with other shapes, and again
        inputs = {
            "history_index": np.arange(num_users * 50, dtype=np.int32).reshape(num_users, 50),
            "user_tokens": np.full((num_users, 2), -(2**62), dtype=np.int64),
            "user_dense": np.linspace(0, 1, num_users * 3, dtype=np.float32).reshape(num_users, 3),
            "exclude_history": np.array([[True]] * num_users),
            "exclude_index": np.zeros((num_users, 0), dtype=np.int32),
        }
        read = service_pb2.ModelInferRequest.FromString(
            request_bytes("model", inputs, ("score", "item_index"))
        )
        wanted = service_pb2.ModelInferRequest(model_name="model")
        for name, array in inputs.items():
            datatype = {"i": "INT32", "l": "INT64", "f": "FP32", "?": "BOOL"}[array.dtype.char]
            wanted.inputs.add(name=name, datatype=datatype, shape=array.shape)
            wanted.raw_input_contents.append(array.tobytes())
        for name in ("score", "item_index"):
            wanted.outputs.add(name=name)
        assert read == wanted
