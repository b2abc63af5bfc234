"""Tensors of a safetensors file mapped into memory, for a process without torch.

Rows are read from the file when they are wanted: the pages behind them are shared by all processes
of the machine and given back by the kernel when it wants them.

Source: the safetensors format (8 bytes of header length, a JSON header, the tensors).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import BundleError

_DTYPES = {
    "F32": np.float32, "F16": np.float16, "I8": np.int8, "U8": np.uint8, "I32": np.int32,
    "I64": np.int64,
}  # fmt: skip
_MAX_HEADER_BYTES = 1_000_000


def map_tensors(path: Path, prefix: str, wanted: str) -> dict[str, NDArray[Any]]:
    """Map the tensors whose name begins with ``prefix``, read-only, by name.

    Raises:
        BundleError: when the file is missing or no such file; it says that ``wanted`` was wanted.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        return {
            name: np.memmap(
                path, _DTYPES[entry["dtype"]], "r", offset=8 + length + entry["data_offsets"][0],
                shape=tuple(entry["shape"]),
            )
            for name, entry in header.items()
            if name.startswith(prefix)
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(path, wanted, error) from error


def unreadable(path: Path, wanted: str, error: Exception) -> BundleError:
    """Give the error of a file that does not hold what was wanted of it."""
    return BundleError(
        f"{path}: wanted {wanted} as safetensors, found {type(error).__name__}: {error}; "
        "roll back or train again"
    )
