"""Which items have an attribute: ``key=value`` tokens to rows, for rules that name them.

Held as two arrays sorted by the token's hash, 12 bytes for each token of each item: at a million
items of five tokens 60 MB, where a dictionary of texts would take several times that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from recsys.features.batch import Bools, Int32s, Int64s
from recsys.features.names import token_hash, token_hashes

if TYPE_CHECKING:
    import polars as pl  # a third of a second to import, and the API must start at once


class ItemTags:
    """Rows of the items that have a tag."""

    def __init__(self, hashes: Int64s, rows: Int32s) -> None:
        """Take one entry for each tag of each item, sorted by hash, then row."""
        self._hashes = hashes
        self._rows = rows
        self._later: dict[int, frozenset[int]] = {}
        """Hashes of the tags of rows that changed."""
        self._later_rows: dict[int, set[int]] = {}
        """The same by hash."""
        num_rows = int(rows.max()) + 1 if len(rows) else 0
        self._is_later: Bools = np.zeros(num_rows, dtype=np.bool_)
        """Of the rows that were there at first."""

    @classmethod
    def of(cls, tags: pl.Series) -> ItemTags:
        """Take the tags of rows ``1 … N``, in order: a column of lists of texts."""
        import polars as pl

        table = pl.DataFrame({"row": np.arange(1, len(tags) + 1, dtype=np.int32), "tag": tags})
        table = table.explode("tag").drop_nulls()
        distinct = table["tag"].unique()
        hashes = pl.DataFrame({"tag": distinct, "hash": token_hashes(distinct)})
        table = table.join(hashes, on="tag").sort("hash", "row")
        return cls(table["hash"].to_numpy(), table["row"].to_numpy())

    @classmethod
    def of_catalogue(cls, frame: pl.DataFrame) -> ItemTags:
        """Take those of a bundle's ``catalogue.parquet``; of one from before tags, categories."""
        import polars as pl

        if "tags" in frame.columns:
            return cls.of(frame["tags"])
        named = pl.when(pl.col("category") != "").then("category=" + pl.col("category"))
        return cls.of(frame.select(tags=pl.concat_list(named))["tags"])

    def take(self, rows: Int32s) -> ItemTags:
        """Give the tags of the items ``rows``, which become rows ``1 … len(rows)``."""
        place_of = {row: place for place, row in enumerate(rows.tolist(), start=1)}
        kept = np.flatnonzero(np.isin(self._rows, rows))
        places = [place_of[row] for row in self._rows[kept].tolist()]
        taken = np.array(places, dtype=np.int32)
        order = np.lexsort((taken, self._hashes[kept]))
        return ItemTags(self._hashes[kept][order], taken[order])

    def entries(self) -> tuple[list[int], list[int]]:
        """Give hash and row of each tag of each item, sorted, as plain numbers."""
        return self._hashes.tolist(), self._rows.tolist()

    def rows(self, tag: str) -> Int32s:
        """Give the rows of the items that have ``tag``, in order; none for an unknown one."""
        return self.rows_of(token_hash(tag))

    def have(self, item_index: Int32s, tag: str) -> Bools:
        """Say which of ``[C]`` rows have ``tag``."""
        wanted, later = token_hash(tag), self._later
        rows = self._first_rows(wanted)
        found: Bools = np.zeros(len(item_index), dtype=np.bool_)
        if len(rows):
            place = np.minimum(np.searchsorted(rows, item_index), len(rows) - 1)
            found = rows[place] == item_index
        if later:
            for at, row in enumerate(item_index.tolist()):
                if row in later:
                    found[at] = wanted in later[row]
        return found

    def rows_of(self, wanted: int) -> Int32s:
        """Give the rows of the items that have the tag of a hash, in order."""
        rows = self._first_rows(wanted)
        if not self._later:
            return rows
        later = np.array(list(self._later_rows.get(wanted, ())), dtype=np.int32)
        kept = rows[~self._is_later[rows]]
        if not len(later):
            return kept
        return np.unique(np.concatenate([kept, later]))

    def change(self, tags: Mapping[int, Iterable[str]]) -> None:
        """Give rows other tags from now on; takes the time of these rows, however many changed.

        Another thread that asks meanwhile finds a row by the old tags, the new ones or both.
        """
        for row, theirs in tags.items():
            hashes, before = frozenset(map(token_hash, theirs)), self._later.get(row, frozenset())
            for hashed in hashes:
                self._later_rows.setdefault(hashed, set()).add(row)
            self._later[row] = hashes
            if row < len(self._is_later):
                self._is_later[row] = True
            for hashed in before - hashes:
                self._later_rows[hashed].discard(row)

    def _first_rows(self, wanted: int) -> Int32s:
        first = int(np.searchsorted(self._hashes, wanted, side="left"))
        end = int(np.searchsorted(self._hashes, wanted, side="right"))
        return self._rows[first:end]


NO_TAGS = ItemTags(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32))
