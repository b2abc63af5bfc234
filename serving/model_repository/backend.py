"""A bundle inside Triton's Python backend: requests in, one batched computation, answers out.

Tensors cross by DLPack both ways. ``pb_utils.Tensor(name, ndarray)`` under NumPy 2 sends the right
shape with no data in it, without an error.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from recsys.bundle.load import load_serving_model
from recsys.bundle.served import VOCABULARY_FILE
from recsys.data.vocabulary import GrowingVocabulary
from recsys.data.vocabulary_file import load_vocabulary
from recsys.errors import RecsysError
from recsys.inference.allocation import keep_freed_memory
from recsys.inference.collate import split_rows
from recsys.inference.compute import answer
from recsys.inference.rank_time import RankTime
from recsys.models.serving import TorchServingModel
from serving.model_repository.compaction import Compactor
from serving.model_repository.item_reader import connect_items
from serving.model_repository.live_items import follow_items
from serving.model_repository.refresh import ItemRefresher
from serving.model_repository.stacking import pad_and_stack
from serving.model_repository.turns import Turns

logger = logging.getLogger(__name__)

_CATCH_UP_S = 20.0
"""Longest wait for what the log has said of items since the bundle was made, before the first
request; of millions of changes the rest is taken in beside requests. The bundle before it serves
meanwhile, if there is one."""
_LOG_FAILS_S = 5.0
"""Longest wait for a log that fails, which is no reason not to serve."""
_FIRST_READ_S = 30.0
"""Longest wait for the first read of all items. What is not read by then is read beside requests,
and the age in the answers says so."""


class ServedModel:
    """One loaded bundle."""

    def __init__(self, args: dict[str, str]) -> None:
        """Load it; ``args`` are those Triton initialises a model with."""
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s"
        )
        parameters = {
            key: value["string_value"]
            for key, value in json.loads(args["model_config"])["parameters"].items()
        }
        keep_freed_memory()
        self._num_threads = int(parameters["num_threads"])
        torch.set_num_threads(self._num_threads)
        bundle_path = Path(parameters["bundle_path"])
        room = int(parameters.get("max_created_items", "0"))
        model = load_serving_model(bundle_path, device="cpu", room=room)
        assert isinstance(model, TorchServingModel)
        self._model = model
        self._num_candidates = int(parameters["num_candidates"])
        self._rank_time = RankTime()
        self._turns = Turns()
        vocabulary = GrowingVocabulary(load_vocabulary(bundle_path / VOCABULARY_FILE))
        self._refresher = ItemRefresher(
            self._model,
            vocabulary,
            lambda: connect_items(bundle_path, Path(parameters["state_dir"])),
            turns=self._turns,
            interval_s=int(parameters["refresh_interval_ms"]) / 1e3,
            room=room,
        )
        self._refresher.read_before_requests(_FIRST_READ_S)
        self._items, self._follower = follow_items(
            self._model, vocabulary, bundle_path, Path(parameters["state_dir"]), self._turns,
            room=room,
        )  # fmt: skip
        self._compactor = Compactor(model, self._turns)

    def start(self) -> None:
        """Start what keeps its items fresh, and catch up with what was said of them so far."""
        torch.set_num_threads(self._num_threads)  # OpenMP keeps it by thread
        self._refresher.start()
        self._follower.start()
        self._follower.wait(_CATCH_UP_S, failing_s=_LOG_FAILS_S)
        self._compactor.start()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch. Requests with the same set of inputs are computed together."""
        with self._turns.turn():
            return self._execute(requests)

    def _execute(self, requests: list[Any]) -> list[Any]:
        calls = [
            {tensor.name(): torch.from_dlpack(tensor.to_dlpack()) for tensor in request.inputs()}
            for request in requests
        ]
        groups: dict[frozenset[str], list[int]] = {}
        for place, call in enumerate(calls):
            groups.setdefault(frozenset(call), []).append(place)
        responses: list[Any] = [None] * len(requests)
        for places in groups.values():
            for place, response in zip(
                places, self._answer([calls[place] for place in places]), strict=True
            ):
                responses[place] = response
        return responses

    def stop(self) -> None:
        """Stop the background threads."""
        self._refresher.stop()
        self._follower.stop()
        self._compactor.stop()

    def _answer(self, calls: list[dict[str, Tensor]]) -> list[Any]:
        try:
            outputs = answer(
                self._model,
                pad_and_stack(calls),
                num_candidates=self._num_candidates,
                rank_time=self._rank_time,
            )
        except RecsysError as error:
            if len(calls) > 1:  # find the one that is at fault; the others are served
                return [self._answer([call])[0] for call in calls]
            return [_refusal(str(error))]
        except Exception as error:
            logger.exception("the model failed")
            return [_refusal(f"{type(error).__name__}: {error}") for _ in calls]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor.from_dlpack(name, to_dlpack(tensor.contiguous()))
                    for name, tensor in rows.items()
                ]
            )
            for rows in split_rows(outputs, calls)
        ]


def _refusal(message: str) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message))
