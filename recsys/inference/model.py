"""What the request path asks of a bundle's model, wherever it runs.

Implementations: ``triton.TritonModel`` (a model server), ``local.LocalModel`` (this process).
Arrays carry the batch axis first and are named, typed and shaped as ``models/signature.py`` says.
No torch here: the API process speaks this protocol without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.deadline import Deadline
from recsys.models.signature import DType

Array = NDArray[Any]
Arrays = Mapping[str, Array]
"""Tensors of one call by name."""

NUMPY_DTYPES: dict[DType, type[np.generic]] = {
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "BOOL": np.bool_,
}


class Model(Protocol):
    """One loaded bundle. Calls may run at the same time.

    Every call raises DeadlineExceededError when ``deadline`` passes first and StageError when the
    model cannot answer (not loaded, server gone, inputs refused).
    """

    async def recommend(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """Answer ``signature.recommend_inputs`` with ``signature.recommend_outputs``."""

    async def rank(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """Answer ``signature.rank_inputs`` with ``signature.rank_outputs``."""

    async def similar(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        """Answer ``signature.similar_inputs`` with ``signature.similar_outputs``."""

    async def is_ready(self) -> bool:
        """Say whether calls would be answered now; never raises."""
