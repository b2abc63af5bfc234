"""The item embeddings of a bundle in the precision it was made with.

``float32`` is what training gives. ``float16`` halves the bytes; ``int8`` (``rowwise.py``) takes a
quarter, and the product of a user with all items, which reads every byte of the table, gets that
much faster where it is bound by memory; ``pq`` (``product_quantised.py``) takes a sixteenth.

Axes: ``B`` users, ``H`` history, ``N`` items (row 0 is padding), ``D`` embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.compression.local_vectors import LocalVectors, appearing
from recsys.compression.product_quantised import (
    ProductQuantisedVectors,
    fit_product_quantised,
)
from recsys.compression.rowwise import decode_rows, encode_rows, product
from recsys.errors import BundleError
from recsys.models.config import VectorPrecision
from recsys.models.growing_rows import GrowingRows

_STORED_TYPE: dict[VectorPrecision, torch.dtype] = {
    "float32": torch.float32, "float16": torch.float16, "int8": torch.int8, "pq": torch.uint8,
}  # fmt: skip


class ItemVectors(Protocol):
    """All items' embeddings."""

    def __len__(self) -> int:
        """Give ``N + 1``."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def scores(self, users: Tensor) -> Tensor:
        """Give ``[B, N + 1]`` float32 inner products with ``[B, D]`` user vectors."""

    def local(self, index: Tensor) -> LocalVectors:
        """Give what is needed to look up the items ``index`` (any shape, 0 pads)."""

    def decoded(self) -> Tensor:
        """Give ``[N + 1, D]`` float32."""

    def tensors(self) -> dict[str, Tensor]:
        """Give what a bundle's file keeps; ``of_tensors`` reads it."""

    def make_room(self, room: int) -> None:
        """Let so many items be added; once."""

    def put(self, index: Tensor, vectors: Tensor) -> None:
        """Take ``[M, D]`` as the vectors of the items ``[M]``; those from N + 1 on are added.

        Raises:
            InputError: when there is no room for them (``make_room``).
        """


class Float32Vectors:
    """As trained."""

    def __init__(self, vectors: Tensor) -> None:
        """Take ``[N + 1, D]``."""
        self._growing = GrowingRows(vectors, room=0)

    @property
    def _vectors(self) -> Tensor:
        return self._growing.rows

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._vectors.device

    def scores(self, users: Tensor) -> Tensor:
        """Give ``[B, N + 1]`` inner products."""
        return users @ self._vectors.T

    def local(self, index: Tensor) -> LocalVectors:
        """Give the whole table: nothing has to be decoded."""
        return LocalVectors(index, self._vectors, None)

    def decoded(self) -> Tensor:
        """Give ``[N + 1, D]``."""
        return self._vectors

    def tensors(self) -> dict[str, Tensor]:
        """Give ``vectors`` float32."""
        return {"vectors": self._vectors}

    def make_room(self, room: int) -> None:
        """Let so many items be added."""
        self._growing = GrowingRows(self._vectors, room=room)

    def put(self, index: Tensor, vectors: Tensor) -> None:
        """Take ``[M, D]`` at ``[M]`` rows."""
        self._growing.put(index, vectors)


class Float16Vectors:
    """Half the bytes, rounded to eleven significant bits."""

    def __init__(self, vectors: Tensor) -> None:
        """Take ``[N + 1, D]`` of any float type."""
        self._growing = GrowingRows(vectors.half(), room=0)

    @property
    def _vectors(self) -> Tensor:
        return self._growing.rows

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._vectors.device

    def scores(self, users: Tensor) -> Tensor:
        """Give ``[B, N + 1]`` inner products, users rounded as well."""
        return (users.half() @ self._vectors.T).float()

    def local(self, index: Tensor) -> LocalVectors:
        """Give the decoded rows of the items that appear."""
        row, place = appearing(index)
        return LocalVectors(place, F.embedding(row, self._vectors).float(), row)

    def decoded(self) -> Tensor:
        """Give ``[N + 1, D]`` float32."""
        return self._vectors.float()

    def tensors(self) -> dict[str, Tensor]:
        """Give ``vectors`` float16."""
        return {"vectors": self._vectors}

    def make_room(self, room: int) -> None:
        """Let so many items be added."""
        self._growing = GrowingRows(self._vectors, room=room)

    def put(self, index: Tensor, vectors: Tensor) -> None:
        """Take ``[M, D]`` at ``[M]`` rows."""
        self._growing.put(index, vectors)


class Int8Vectors:
    """A quarter of the bytes, and one scale a row."""

    def __init__(self, rows: Tensor, scale: Tensor) -> None:
        """Take ``encode_rows``'s ``[N + 1, D]`` rows and ``[N + 1]`` scales."""
        self._growing = GrowingRows(rows, room=0), GrowingRows(scale, room=0)

    @property
    def _rows(self) -> Tensor:
        return self._growing[0].rows

    @property
    def _scale(self) -> Tensor:
        return self._growing[1].rows

    @classmethod
    def encode(cls, vectors: Tensor) -> Int8Vectors:
        """Encode ``[N + 1, D]`` floats."""
        return cls(*encode_rows(vectors))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._rows.device

    def scores(self, users: Tensor) -> Tensor:
        """Give ``[B, N + 1]`` inner products of encoded users and items."""
        return product(users, self._rows, self._scale)

    def local(self, index: Tensor) -> LocalVectors:
        """Give the decoded rows of the items that appear."""
        row, place = appearing(index)
        return LocalVectors(place, decode_rows(self._rows[row], self._scale[row]), row)

    def decoded(self) -> Tensor:
        """Give ``[N + 1, D]`` float32."""
        return decode_rows(self._rows, self._scale)

    def tensors(self) -> dict[str, Tensor]:
        """Give ``vectors`` int8 and ``vector_scale`` float32."""
        return {"vectors": self._rows, "vector_scale": self._scale}

    def make_room(self, room: int) -> None:
        """Let so many items be added."""
        rows, scale = self._growing
        self._growing = GrowingRows(rows.rows, room=room), GrowingRows(scale.rows, room=room)

    def put(self, index: Tensor, vectors: Tensor) -> None:
        """Take ``[M, D]``, encoded, at ``[M]`` rows."""
        for growing, part in zip(self._growing, encode_rows(vectors), strict=True):
            growing.put(index, part)


def in_precision(vectors: Tensor, precision: VectorPrecision) -> ItemVectors:
    """Give ``[N + 1, D]`` trained vectors in the wanted precision."""
    match precision:
        case "float32":
            return Float32Vectors(vectors)
        case "float16":
            return Float16Vectors(vectors)
        case "int8":
            return Int8Vectors.encode(vectors)
        case "pq":
            return fit_product_quantised(vectors)


def of_tensors(tensors: Mapping[str, Tensor], precision: VectorPrecision) -> ItemVectors:
    """Give the vectors a bundle's file keeps.

    Raises:
        BundleError: when the file's type is not the one the manifest says.
    """
    vectors = tensors["vectors"]
    wanted = _STORED_TYPE[precision]
    if vectors.dtype != wanted:
        raise BundleError(
            f"item vectors: the manifest says {precision}, the file holds {vectors.dtype}; "
            "roll back or train again"
        )
    if precision == "int8":
        return Int8Vectors(vectors, tensors["vector_scale"])
    if precision == "pq":
        return ProductQuantisedVectors(vectors, tensors["vector_books"], tensors["vector_rotation"])
    return in_precision(vectors, precision)
