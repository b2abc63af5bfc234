"""Attributes of items, from the log through a bundle's catalogue to the rows a rule means."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from recsys.bundle.item_tags import NO_TAGS, ItemTags
from recsys.data.catalogue import build_catalogue, read_catalogue_frame


def test_tags_find_the_rows_of_the_items_that_have_them(tmp_path: Path) -> None:
    attributes = [{"colour": "red", "tags": ["wood", "new"]}, None, {"colour": "red"}]
    log = pl.DataFrame(
        {
            "kind": ["item"] * 3,
            "event_time_ms": [1_000, 2_000, 3_000],
            "item_id": ["a", "b", "c"],
            "category": ["toys", None, "toys"],
            "attributes": [None if some is None else json.dumps(some) for some in attributes],
        }
    )
    path = tmp_path / "catalogue.parquet"
    build_catalogue(log).to_frame().write_parquet(path)
    tags = ItemTags.of(read_catalogue_frame(path)["tags"])
    assert tags.rows("colour=red").tolist() == [1, 3]
    assert tags.rows("tags=wood").tolist() == [1]
    assert tags.rows("category=toys").tolist() == [1, 3]
    assert tags.rows("colour=blue").tolist() == []
    assert NO_TAGS.rows("colour=red").tolist() == []


def test_a_catalogue_from_before_tags_were_kept_is_read(tmp_path: Path) -> None:
    log = pl.DataFrame({"kind": ["item"], "event_time_ms": [1_000], "item_id": ["a"]})
    path = tmp_path / "catalogue.parquet"
    build_catalogue(log).to_frame().drop("tags").write_parquet(path)
    assert "tags" not in read_catalogue_frame(path).columns
