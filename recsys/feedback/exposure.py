"""The exposure record: what the API answered, why, and from which inputs.

One record per answered request, on the topic of ``Topics.exposures``, keyed by user. It holds the
request as it was sent, the tensors the model was given and the versions, so that the answer can be
computed again from the bundle alone, audited for skew, and joined with what the user did next
(``request_id``). An *impression* event says the list was really shown; an exposure only that it was
given out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from recsys.wire import Rung

GREEDY = "greedy"
"""Policy without chance: the best item at every place."""


_DTYPE_OF = {np.dtype(name).char: name for name in ("int32", "int64", "float32", "bool")}


class TensorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor, row-major, little-endian."""

    dtype: Literal["int32", "int64", "float32", "bool"]
    shape: tuple[int, ...]
    data: bytes
    """base64 in JSON."""

    @classmethod
    def of(cls, array: NDArray[Any]) -> TensorRecord:
        """Record an array."""
        name = _DTYPE_OF.get(array.dtype.char) or array.dtype.name  # the latter takes 10 µs
        return cls(dtype=name, shape=array.shape, data=array.tobytes())  # type: ignore[arg-type]

    def array(self) -> NDArray[Any]:
        """Give the array back, read-only."""
        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


class Exposure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of the API."""

    request_id: str
    user_id: str
    route: Literal["recommendations", "rank"]
    now_ms: int
    """When the request was answered."""
    bundle: str
    rung: Rung
    policy: str = GREEDY
    """How the list was drawn, with parameters; with ``greedy`` every propensity is 1."""
    propensities: list[float] = []
    """Chance of each item at its place given those above it, aligned with ``item_ids``; empty under
    ``greedy``. Chance falls by ``user_id`` and ``request_id`` (``ranking/request_random.py``)."""
    rules: str = ""
    """Version of the operator's rules in force."""
    degraded: str = ""
    """As answered."""
    item_ids: list[str]
    """As answered; position ``i`` is ``item_ids[i]``."""
    scores: list[float | None]
    """Aligned with ``item_ids``; null for an item that could not be scored."""
    features: dict[str, TensorRecord] = {}
    """``signature.user_context`` of this request, batch axis 1; empty when they were not read.
    Items that came after the bundle are left out of the history."""
    features_as_of_ms: int | None = None
    """The moment the features speak of."""
    item_features_age_ms: int | None = None
    replay: dict[str, TensorRecord] = {}
    """What else the answer was made of, for computing it again (``replay/kept.py``)."""
    request: Annotated[msgspec.Raw, msgspec.Meta(description="The request body.")]

    @staticmethod
    def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, TensorRecord]:
        """Record the tensors of a request."""
        return {name: TensorRecord.of(array) for name, array in arrays.items()}


encode_exposure = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Exposure).decode


def decode_exposure(data: bytes) -> Exposure:
    """Give the exposure in ``data``. Raises ``msgspec.ValidationError`` when it is none."""
    return _decode(data)
