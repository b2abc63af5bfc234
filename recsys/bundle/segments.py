"""What is popular among users who have a profile token (``country=FR``): small lists, by token.

Of the tokens a user has, the one of the fewest users speaks: it says most. Tokens travel as hashes
(``features/names.py``), as everywhere after the border.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from recsys.data.vocabulary import PADDING_INDEX, Vocabulary
from recsys.errors import BundleError
from recsys.features.batch import Float32s, Int32s

SEGMENTS_FILE = "popular_segments.json"


class SegmentItem(msgspec.Struct, frozen=True):
    """One item of a segment's list."""

    item_id: str
    score: float


class SegmentEntry(msgspec.Struct, frozen=True):
    """Entries of ``popular_segments.json``."""

    token_hash: int
    num_users: int
    """With the token, who acted on anything."""
    items: list[SegmentItem]
    """Best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The popular items of one segment."""

    num_users: int
    item_index: Int32s
    score: Float32s
    """Aligned, falling."""


class Segments:
    """Lists by token hash."""

    def __init__(self, by_token: dict[int, Segment]) -> None:
        self._by_token = by_token

    @classmethod
    def of(cls, entries: Sequence[SegmentEntry], vocabulary: Vocabulary) -> Segments:
        """Take what the file says; items the vocabulary lacks are left out."""
        by_token = {}
        for entry in entries:
            index = vocabulary.indexes(item.item_id for item in entry.items)
            score = np.array([item.score for item in entry.items], dtype=np.float32)
            known = index != PADDING_INDEX
            by_token[entry.token_hash] = Segment(
                num_users=entry.num_users, item_index=index[known], score=score[known]
            )
        return cls(by_token)

    def of_user(self, token_hashes: Iterable[int]) -> Segment | None:
        """Give the segment of the fewest users among those of the tokens; ``None`` for none."""
        found = [self._by_token[token] for token in token_hashes if token in self._by_token]
        return min(found, key=lambda segment: segment.num_users, default=None)

    def __len__(self) -> int:
        return len(self._by_token)


NO_SEGMENTS = Segments({})


def load_segments(folder: Path, vocabulary: Vocabulary) -> Segments:
    """Read the segments of the bundle in ``folder``.

    Raises:
        BundleError: when the file is damaged.
    """
    path = folder / SEGMENTS_FILE
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[SegmentEntry])
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(f"{path} cannot be read ({error}); train again") from error
    return Segments.of(entries, vocabulary)
