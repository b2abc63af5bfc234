"""Fixed-width records of many entities as one blob for each, and sections within a blob."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.errors import FeatureError
from recsys.features.batch import Int64s


def split_records(records: NDArray[np.void], owner: Int64s, num_owners: int) -> list[bytes]:
    """Cut records sorted by owner into one blob for each owner."""
    data = records.tobytes()
    ends = (np.searchsorted(owner, np.arange(num_owners + 1)) * records.dtype.itemsize).tolist()
    return [data[ends[i] : ends[i + 1]] for i in range(num_owners)]


def join_records(
    blobs: Sequence[bytes | None], dtype: np.dtype[np.void], what: str
) -> tuple[Int64s, NDArray[np.void]]:
    """Give the records in ``blobs`` (``None`` has none) and the owner of each, ``[N]``.

    Raises:
        FeatureError: when one is not a whole number of records.
    """
    lengths = np.fromiter((len(blob) if blob else 0 for blob in blobs), np.int64, len(blobs))
    if (lengths % dtype.itemsize).any():
        raise FeatureError(
            f"{what}: wanted records of {dtype.itemsize} bytes, found a length of "
            f"{lengths[lengths % dtype.itemsize > 0][0]}; run `recsys backfill`"
        )
    records = np.frombuffer(b"".join([blob for blob in blobs if blob]), dtype=dtype)
    return np.repeat(np.arange(len(blobs), dtype=np.int64), lengths // dtype.itemsize), records


def join_sections(sections: Sequence[list[bytes]]) -> list[bytes]:
    """Give one blob for each owner: the length of each section (u32 le), then the sections."""
    return [
        b"".join([*(len(part).to_bytes(4, "little") for part in parts), *parts])
        if any(parts)
        else b""
        for parts in zip(*sections, strict=True)
    ]


def split_sections(blobs: Sequence[bytes | None], number: int, what: str) -> list[list[bytes]]:
    """Undo ``join_sections``: one list of blobs for each of ``number`` sections.

    Raises:
        FeatureError: when the lengths do not add up to that of the blob.
    """
    sections: list[list[bytes]] = [[] for _ in range(number)]
    for blob in blobs:
        if not blob:
            for section in sections:
                section.append(b"")
            continue
        at = 4 * number
        for place, section in enumerate(sections):
            length = int.from_bytes(blob[4 * place : 4 * place + 4], "little")
            section.append(blob[at : at + length])
            at += length
        if at != len(blob):
            raise FeatureError(
                f"{what}: wanted {number} sections of {at} bytes in all, found {len(blob)}; "
                "run `recsys backfill`"
            )
    return sections


def starts_of_groups(*keys: NDArray[np.generic]) -> Int64s:
    """Give where each run of equal keys begins; the keys (``[N]`` each, N > 0) are sorted."""
    first = np.zeros(len(keys[0]), dtype=np.bool_)
    first[0] = True
    for key in keys:
        first[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(first)
