"""A bundle run in this process, for unit tests, notebooks and offline comparison with serving."""

from __future__ import annotations

import torch

from recsys.deadline import Deadline
from recsys.errors import DeadlineExceededError, InputError, StageError
from recsys.inference.compute import answer
from recsys.inference.model import Arrays
from recsys.inference.rank_time import RankTime
from recsys.models.serving_model import ServingModel


class LocalModel:
    """See ``Model``. Computes on the caller's thread, so a call is never cut, only found late."""

    def __init__(self, model: ServingModel, *, num_candidates: int = 500) -> None:
        self._model = model
        self._num_candidates = num_candidates
        self._rank_time = RankTime()

    async def recommend(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """See ``Model.recommend``."""
        return self._answer("recommend", inputs, deadline)

    async def rank(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """See ``Model.rank``."""
        return self._answer("rank", inputs, deadline)

    async def similar(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """See ``Model.similar``."""
        return self._answer("similar", inputs, deadline)

    async def is_ready(self) -> bool:
        """See ``Model.is_ready``."""
        return True

    def _answer(self, stage: str, inputs: Arrays, deadline: Deadline) -> Arrays:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
        try:
            outputs = answer(
                self._model,
                tensors,
                num_candidates=self._num_candidates,
                rank_time=self._rank_time,
            )
        except InputError as error:
            raise StageError(f"{stage}: the model refused its inputs: {error}", stage=stage) from (
                error
            )
        except Exception as error:  # as the model server: a bug of the model fails this call alone
            raise StageError(
                f"{stage}: the model failed: {type(error).__name__}: {error}", stage=stage
            ) from error
        if deadline.remaining_s() == 0:
            raise DeadlineExceededError(f"{stage}: done after its deadline", stage=stage)
        return {name: tensor.numpy() for name, tensor in outputs.items()}
