"""The list of last resort: popular items of the bundle that was taken up last, in a small file.

Written when a bundle is taken up, read when an API process starts, so that there is something to
show before a bundle is read, while none can be, and without any server. It is read back as a bundle
of its few items, so that filters, rules and re-ranking hold as on every other rung.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from recsys.bundle.item_embeddings import ItemEmbeddings
from recsys.bundle.item_tags import ItemTags
from recsys.bundle.served import NO_CATEGORY, ServedBundle
from recsys.data.vocabulary import Vocabulary
from recsys.errors import BundleError
from recsys.events.durable_files import make_directory, write_durably
from recsys.models.encode import UserEncoding
from recsys.models.signature import Dimensions

MAX_ITEMS = 1_000
"""Twice the longest answer, so that filters leave enough: some 150 kB."""


class _Item(msgspec.Struct, frozen=True, omit_defaults=True):
    item_id: str
    score: float
    title: str = ""
    category: str = ""
    born_ms: int = 0


class _StaticList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bundle_id: str
    objectives: list[str]
    categories: list[str]
    """All of the bundle: a request may name one that has no item here."""
    items: list[_Item]
    """Best first."""
    tag_hashes: list[int]
    tag_rows: list[int]
    """Places in ``items``, from 1."""
    log_positions: dict[str, int] = {}
    """The bundle's: what the log says of items from there on is news."""


def write_static_list(path: Path, bundle: ServedBundle) -> None:
    """Keep the first of the bundle's popular items in ``path``, wholly or not at all.

    Raises:
        OSError: when it cannot be written; what was there stays.
    """
    shown = bundle.popular_index[bundle.available[bundle.popular_index]][:MAX_ITEMS]
    hashes, rows = bundle.tags.take(shown).entries()
    document = _StaticList(
        bundle_id=bundle.bundle_id,
        objectives=list(bundle.dimensions.objectives),
        categories=list(bundle.vocabulary.categories),
        items=[
            _Item(
                item_id=bundle.vocabulary.item_ids[row - 1],
                score=float(bundle.popular_score_by_row[row]),
                title=bundle.title[row],
                category=bundle.category(row),
                born_ms=int(bundle.born_ms[row]),
            )
            for row in shown.tolist()
        ],
        tag_hashes=hashes,
        tag_rows=rows,
        log_positions=dict(bundle.log_positions),
    )
    data = msgspec.json.encode(document)
    if not path.is_file() or path.read_bytes() != data:
        make_directory(path.parent)
        write_durably(path, data)


def read_static_list(path: Path) -> ServedBundle | None:
    """Give the list as a bundle of its items; ``None`` when none was ever written.

    Raises:
        BundleError: when the file is damaged.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_StaticList)
        return _as_bundle(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} cannot be read ({error}); it is written anew with the next bundle"
        ) from error


def _as_bundle(found: _StaticList) -> ServedBundle:
    vocabulary = Vocabulary(tuple(item.item_id for item in found.items), tuple(found.categories))
    column_of = vocabulary.category_index_of
    columns = [column_of.get(item.category, NO_CATEGORY) for item in found.items]
    num_items = len(found.items)
    return ServedBundle(
        bundle_id=found.bundle_id,
        dimensions=Dimensions(
            history_length=0, num_tokens=0, num_user_features=0,
            num_categories=len(found.categories), num_category_features=0, num_item_features=0,
            objectives=tuple(found.objectives), sources=("popular",),
        ),
        vocabulary=vocabulary,
        title=["", *(item.title for item in found.items)],
        category_index=np.array([NO_CATEGORY, *columns], dtype=np.int32),
        available=np.array([False] + [True] * num_items, dtype=np.bool_),
        popular_index=np.arange(1, num_items + 1, dtype=np.int32),
        popular_score=np.array([item.score for item in found.items], dtype=np.float32),
        encoding=UserEncoding(
            history_length=0, num_tokens=0, user_activity=(),
            num_categories=len(found.categories), user_category_activity=(),
        ),
        born_ms=np.array([0, *(item.born_ms for item in found.items)], dtype=np.int64),
        log_positions=found.log_positions,
        # Zeros are like no other item: diversity by embedding leaves the order alone.
        embeddings=ItemEmbeddings({"vectors": np.zeros((num_items + 1, 1), dtype=np.float32)}),
        tags=ItemTags(
            np.array(found.tag_hashes, dtype=np.int64), np.array(found.tag_rows, dtype=np.int32)
        ),
    )  # fmt: skip
