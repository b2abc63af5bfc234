"""A bundle as the API process holds it: names, filters and the fallback list, but no weights.

Item embeddings are mapped from the bundle's file, not held (``item_embeddings.py``).

Small and quick to load: a request is answered with one of these from start to end, while the next
one may already be live.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recsys.bundle.item_embeddings import ITEMS_FILE, ItemEmbeddings, map_item_embeddings
from recsys.bundle.item_neighbours import ItemNeighbours, map_item_neighbours
from recsys.bundle.item_tags import NO_TAGS, ItemTags
from recsys.bundle.manifest import read_manifest, verify_files
from recsys.bundle.segments import NO_SEGMENTS, SEGMENTS_FILE, Segments, load_segments
from recsys.data.vocabulary import GrowingVocabulary, Vocabulary
from recsys.data.vocabulary_file import load_vocabulary
from recsys.errors import BundleError
from recsys.features.batch import Bools, Float32s, Int32s, Int64s
from recsys.features.plan import PLAN_FILE
from recsys.models.created_items import CreatedItems, created_key
from recsys.models.encode import UserEncoding
from recsys.models.signature import Dimensions

NO_CATEGORY = -1
VOCABULARY_FILE = "vocabulary.json"
CATALOGUE_FILE = "catalogue.parquet"
POPULAR_FILE = "popular.json"


@dataclass(frozen=True, kw_only=True)
class ServedBundle:
    """What answering a request needs of a bundle, outside the model server.

    What the catalogue has said since the bundle was made is written into ``title``,
    ``category_index``, ``available`` and ``tags`` (``live_items.py``), and items that came since
    have rows behind the bundle's own (``add_item``), for which arrays have room; nothing else
    moves.

    Axes: ``N`` items, the room behind them counted; row 0 is padding everywhere.
    """

    bundle_id: str
    dimensions: Dimensions
    vocabulary: Vocabulary
    title: list[str]
    """``[N + 1]``, ``""`` where there is none."""
    category_index: Int32s
    """``[N + 1]`` column of the vocabulary's categories, -1 for none."""
    available: Bools
    """``[N + 1]`` whether the item may be shown."""
    popular_index: Int32s
    """Rows of the fallback list, best first."""
    popular_score: Float32s
    """Aligned with ``popular_index``."""
    encoding: UserEncoding
    """How users become the tensors of ``signature.user_context``."""
    born_ms: Int64s
    """``[N + 1]`` when each item came to be, or was first named."""
    log_positions: Mapping[str, int] = field(default_factory=dict)
    """``topic:partition`` to the first offset of the log the bundle does not know."""
    embeddings: ItemEmbeddings
    """What re-ranking measures likeness by."""
    tags: ItemTags = NO_TAGS
    """Attributes of items, for rules and filters; categories alone in bundles from before."""
    neighbours: ItemNeighbours | None = None
    """What goes with what; ``None`` where nobody can say."""
    segments: Segments = NO_SEGMENTS
    """Popular items by profile token; none in bundles from before they were kept."""
    created: CreatedItems = field(init=False)
    """Items that came since the bundle was made, by key."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "created", CreatedItems(self.vocabulary.num_items))

    @property
    def room(self) -> int:
        """Items that can still be added."""
        if not isinstance(self.vocabulary, GrowingVocabulary):
            return 0
        return len(self.available) - 1 - self.vocabulary.num_items

    def add_item(self, item_id: str, *, title: str, category: str, born_ms: int) -> int:
        """Give a new item a row, where there is ``room``; it is not available yet.

        Its identity is known last, so that whoever finds the row finds all of it.
        """
        assert isinstance(self.vocabulary, GrowingVocabulary) and self.room > 0
        row = self.created.add(created_key(item_id))
        self.title.append(title)
        self.category_index[row] = self.vocabulary.category_index_of.get(category, NO_CATEGORY)
        self.born_ms[row] = born_ms
        assert self.vocabulary.add(item_id) == row == len(self.title) - 1
        return row

    def category(self, row: int) -> str:
        """Give the category of an item, ``""`` for none."""
        column = int(self.category_index[row])
        return "" if column == NO_CATEGORY else self.vocabulary.categories[column]

    @property
    def num_withdrawn(self) -> int:
        """Items that may not be shown."""
        num_items = self.vocabulary.num_items
        return num_items - int(np.count_nonzero(self.available[1 : num_items + 1]))

    @cached_property
    def popular_order(self) -> Int32s:
        """Places in ``popular_index``, best first: it need not be sorted."""
        order: Int32s = np.argsort(-self.popular_score, kind="stable").astype(np.int32)
        return order

    @cached_property
    def popular_score_by_row(self) -> Float32s:
        """``[N + 1]`` score of the fallback list by row, 0 outside the list."""
        scores = np.zeros(len(self.available), dtype=np.float32)
        scores[self.popular_index] = self.popular_score
        return scores


class _Popular(msgspec.Struct):
    """Entries of ``popular.json``."""

    item_id: str
    score: float


def load_served_bundle(folder: Path, *, room: int = 0) -> ServedBundle:
    """Give the names, filters and fallback list of the bundle in ``folder``.

    ``room``: how many items may be added while it is served.

    Raises:
        BundleError: when it is missing, damaged or of another version.
    """
    # Here, because polars takes a third of a second to import and the API must start at once.
    import polars as pl

    from recsys.data.catalogue import read_catalogue_frame

    manifest = read_manifest(folder)
    # What an API process reads; towers and ranker are the model server's to verify.
    has_segments = SEGMENTS_FILE in manifest.files
    read = [VOCABULARY_FILE, CATALOGUE_FILE, POPULAR_FILE, PLAN_FILE, ITEMS_FILE]
    verify_files(folder, manifest, [*read, SEGMENTS_FILE] if has_segments else read)
    vocabulary = load_vocabulary(folder / VOCABULARY_FILE)
    frame = read_catalogue_frame(folder / CATALOGUE_FILE)
    # Columns as a whole: a thread that goes through a million values keeps requests waiting.
    if tuple(frame["item_id"].to_list()) != vocabulary.item_ids:
        raise BundleError(
            f"bundle {manifest.bundle_id}: {CATALOGUE_FILE} and {VOCABULARY_FILE} name other "
            "items; train again or roll back"
        )
    try:
        popular = msgspec.json.decode((folder / POPULAR_FILE).read_bytes(), type=list[_Popular])
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(
            f"bundle {manifest.bundle_id}: {POPULAR_FILE} cannot be read ({error}); train again"
        ) from error
    columns = frame["category"].replace_strict(
        vocabulary.category_index_of, default=NO_CATEGORY, return_dtype=pl.Int32
    )
    if room:
        vocabulary = GrowingVocabulary(vocabulary)
    bundle = ServedBundle(
        bundle_id=manifest.bundle_id,
        dimensions=manifest.dimensions,
        vocabulary=vocabulary,
        title=["", *frame["title"].to_list()],
        category_index=_with_room(NO_CATEGORY, columns.to_numpy(), room),
        available=_with_room(False, frame["available"].to_numpy(), room),
        popular_index=vocabulary.indexes(entry.item_id for entry in popular),
        popular_score=np.array([entry.score for entry in popular], dtype=np.float32),
        encoding=manifest.encoding,
        log_positions=manifest.lineage.log_positions,
        born_ms=_with_room(0, frame["born_ms"].to_numpy(), room),
        embeddings=map_item_embeddings(folder, num_items=vocabulary.num_items),
        tags=ItemTags.of_catalogue(frame),
        neighbours=map_item_neighbours(
            folder,
            num_items=vocabulary.num_items,
            half_life_days=manifest.sources.item_to_item_half_life_days,
        ),
        segments=load_segments(folder, vocabulary) if has_segments else NO_SEGMENTS,
    )
    # Sorted here, in the thread that loads, and not under the first request that needs it.
    _ = bundle.popular_order, bundle.popular_score_by_row
    return bundle


def _with_room(padding: int, values: NDArray[Any], room: int) -> NDArray[Any]:
    """Give padding, the values, and zeros behind them, which take no memory until written."""
    array: NDArray[Any] = np.zeros(1 + len(values) + room, dtype=values.dtype)
    array[0] = padding
    array[1 : len(values) + 1] = values
    return array
