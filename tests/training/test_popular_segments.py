"""Lists of users who share a profile token, against the log itself."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import polars as pl
import pytest

from recsys.bundle.segments import SegmentEntry, Segments
from recsys.features.names import token_hash
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import OBJECTIVES, made_up_log
from training.popular_segments import SegmentsConfig, popular_segments
from training.prepare import prepare
from training.progress import Progress
from training.recipes import debug

DAY_MS = 86_400_000


def test_segments_are_those_of_the_log_at_the_end_of_training() -> None:
    log = made_up_log()
    prepared, sources = prepare(
        log, small_plan(), debug(), OBJECTIVES, test_from_ms=None, progress=Progress(quiet=True)
    )
    assert popular_segments(prepared, sources) == [], "20 users each: too few to speak of"
    config = SegmentsConfig(min_users=10, num_items=15)
    found = popular_segments(prepared, sources, config)
    assert {entry.token_hash for entry in found} == {
        token_hash(f"country={code}") for code in ("fr", "de", "uk")
    }
    end_ms, half_life = prepared.split.test_from_ms, prepared.recipe.neighbours.half_life_days
    users = log.filter(pl.col("kind") == "user")
    country = {
        user: json.loads(said)["country"]
        for user, said in users.select("user_id", "attributes").iter_rows()
    }
    taken = (
        log.filter((pl.col("kind") == "interaction") & (pl.col("event_time_ms") < end_ms))
        .group_by("user_id", "item_id")
        .agg(pl.col("event_time_ms").max())
        .with_columns(pl.col("user_id").replace_strict(country).alias("country"))
    )
    for entry in found:
        code = next(c for c in country.values() if token_hash(f"country={c}") == entry.token_hash)
        theirs = taken.filter(pl.col("country") == code)
        assert entry.num_users == theirs["user_id"].n_unique()
        age_days = (end_ms - pl.col("event_time_ms")) / DAY_MS
        wanted = dict(
            theirs.group_by("item_id").agg((2.0 ** (-age_days / half_life)).sum()).iter_rows()
        )
        scores = [item.score for item in entry.items]
        assert len(scores) == 15 and scores == sorted(scores, reverse=True)
        for item in entry.items:
            assert item.score == pytest.approx(np.log1p(wanted[item.item_id]), abs=1e-3)
        assert scores[0] == pytest.approx(np.log1p(max(wanted.values())), abs=1e-3)
    # As they travel in a bundle.
    read = msgspec.json.decode(msgspec.json.encode(found), type=list[SegmentEntry])
    segments = Segments.of(read, sources.catalogue.vocabulary)
    mine = segments.of_user([token_hash("country=fr"), token_hash("vip=true")])
    assert mine is not None and len(mine.item_index) == 15
    assert segments.of_user([token_hash("country=xx")]) is None
