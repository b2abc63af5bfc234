"""Visits, questions, labels and splits: what is learned from lies before what is judged."""

from __future__ import annotations

import polars as pl
import pytest

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.data.catalogue import build_catalogue
from recsys.data.examples import labels_after, question_moments, visits_of
from recsys.data.impressions import LabelRule, read_shown_lists
from recsys.data.interactions import read_interactions
from recsys.data.splits import TimeSplit, split_by_time
from recsys.data.text import word_buckets, words_of
from recsys.data.vocabulary import Vocabulary
from recsys.data.vocabulary_file import load_vocabulary, save_vocabulary
from recsys.errors import BundleError, InputError

T0 = 1_700_000_000_000


def acts(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "kind": "interaction", "event_id": f"e{n}", "user_id": user, "item_id": item,
                "event_time_ms": T0 + at, "type": "click", "value": 1.0,
            }
            for n, (user, item, at) in enumerate(rows)
        ]
    )  # fmt: skip


VOCABULARY = Vocabulary(("a", "b", "c"), ("x",))
LOG = acts(
    ("u", "a", 0), ("u", "b", MINUTE_MS), ("u", "a", 2 * MINUTE_MS), ("u", "c", 5 * HOUR_MS),
    ("v", "b", 10), ("v", "elsewhere", 20),
)  # fmt: skip


def test_a_pause_begins_a_new_visit_whose_moment_is_before_its_first_item() -> None:
    visits = visits_of(read_interactions(LOG, VOCABULARY), pause_ms=HOUR_MS)
    assert visits.user.tolist() == [0, 0, 1]
    assert visits.moment_ms.tolist() == [T0 - 1, T0 + 5 * HOUR_MS - 1, T0 + 9]
    assert [visits.positives.row(b).tolist() for b in range(3)] == [[1, 2], [3], [2]]


def test_no_interaction_gives_no_visit() -> None:
    assert len(visits_of(read_interactions(LOG.head(0), VOCABULARY), pause_ms=1)) == 0


def test_the_same_event_twice_counts_once() -> None:
    twice = pl.concat([LOG, LOG])
    assert len(read_interactions(twice, VOCABULARY)) == 5


def test_labels_lie_inside_the_window() -> None:
    users, items = labels_after(
        read_interactions(LOG, VOCABULARY), from_ms=T0 + MINUTE_MS, until_ms=T0 + HOUR_MS
    )
    assert users.tolist() == [0]
    assert items.row(0).tolist() == [1, 2]


def test_questions_end_before_the_test() -> None:
    moments = question_moments(
        from_ms=0, until_ms=52 * DAY_MS, every_ms=7 * DAY_MS, window_ms=30 * DAY_MS
    )
    assert (moments // DAY_MS).tolist() == [1, 8, 15, 22]
    assert (moments + 30 * DAY_MS <= 52 * DAY_MS).all()


def test_a_short_log_gives_one_question() -> None:
    assert question_moments(from_ms=5, until_ms=10, every_ms=1, window_ms=100).tolist() == [5]


def test_a_split_keeps_a_third_for_the_sources_of_a_short_log() -> None:
    split = split_by_time(
        begin_ms=0, end_ms=1000, test_from_ms=None, test_share=0.1, ranker_span_ms=10**9
    )
    assert (split.test_from_ms, split.ranker_from_ms) == (900, 600)


def test_a_test_before_the_data_is_refused_with_what_was_found() -> None:
    with pytest.raises(InputError, match="--test-from"):
        TimeSplit(begin_ms=100, ranker_from_ms=50, test_from_ms=60, end_ms=200)


def test_catalogue_knows_items_nobody_touched_and_takes_the_latest_word() -> None:
    items = pl.DataFrame(
        {
            "kind": "item",
            "event_id": ["i1", "i2", "i3"],
            "event_time_ms": [T0, T0 + 5, T0],
            "item_id": ["a", "a", "never"],
            "title": ["Old mug", "New mug", "Lamp"],
            "category": ["x", "y", ""],
            "price": [1.0, 2.0, None],
            "available": [True, False, True],
            "attributes": ['{"brand": "Acme"}', '{"brand": "Acme"}', None],
        }
    )
    catalogue = build_catalogue(pl.concat([items, LOG], how="diagonal"))
    assert catalogue.vocabulary.item_ids == ("a", "b", "c", "elsewhere", "never")
    assert catalogue.title[0] == "New mug"
    assert "brandAcme" in catalogue.text[0]
    assert catalogue.price.tolist() == [2.0, -1.0, -1.0, -1.0, -1.0]
    assert catalogue.available.tolist() == [False, True, True, True, True]
    assert catalogue.category.tolist() == [0, 1, 1, 1, 1]  # 1: none
    early = build_catalogue(pl.concat([items, LOG], how="diagonal"), as_of_ms=T0)
    assert early.title[0] == "Old mug"
    then = build_catalogue(pl.concat([items, LOG], how="diagonal"), described_until_ms=T0 + 5)
    assert (then.title[0], then.price[0], then.was_available[0]) == ("Old mug", 1.0, True)
    assert not then.available[0]  # what may be shown from now on is the latest word
    assert then.vocabulary.item_ids == catalogue.vocabulary.item_ids
    before = build_catalogue(pl.concat([items, LOG], how="diagonal"), described_until_ms=T0)
    assert before.title[0] == "New mug"  # announced later: there is nothing earlier to say


def test_words_are_hashed_with_their_pairs() -> None:
    assert words_of("Red  MUG!") == ["red", "mug", "red mug"]
    buckets = word_buckets(["red mug", "", "mug"], num_buckets=50, num_words=2)
    assert buckets.shape == (3, 2)
    assert (buckets[0] > 0).all() and not buckets[1].any()
    assert buckets[0, 1] == buckets[2, 0]


def test_vocabulary_file_round_trip_and_damage(tmp_path) -> None:
    path = tmp_path / "vocabulary.json"
    save_vocabulary(VOCABULARY, path)
    assert load_vocabulary(path) == VOCABULARY
    path.write_text("{")
    with pytest.raises(BundleError, match="not a readable vocabulary"):
        load_vocabulary(path)


def shown(request: str, at: int, items: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "kind": ["impression"], "event_id": [f"i-{request}"], "user_id": ["u"],
            "request_id": [request], "event_time_ms": [T0 + at], "items": [items],
        }
    )  # fmt: skip


def test_an_act_belongs_to_the_latest_list_that_showed_it_within_the_window() -> None:
    log = pl.concat(
        [
            shown("r1", -100, ["a", "b"]),
            shown("r2", -50, ["c", "a"]),
            shown("r3", 10, ["a"]),
            LOG.with_columns(pl.lit(None, dtype=pl.String).alias("request_id")),
        ],
        how="diagonal",
    )
    lists = read_shown_lists(
        log, VOCABULARY, [LabelRule(objective="click", interaction="click")], window_ms=1000
    )
    assert lists.item.tolist() == [[1, 2], [3, 1], [1, 0]]
    assert lists.label[:, :, 0].tolist() == [[0, 0], [0, 1], [0, 0]]


def test_a_named_request_wins_over_the_window() -> None:
    log = pl.concat(
        [
            shown("r1", -100, ["a"]),
            shown("r2", -50, ["a"]),
            LOG.with_columns(pl.lit("r1").alias("request_id")),
        ],
        how="diagonal",
    )
    lists = read_shown_lists(
        log, VOCABULARY, [LabelRule(objective="click", interaction="click")], window_ms=1
    )
    assert lists.label[:, 0, 0].tolist() == [1, 0]


def test_places_are_kept_from_the_first_position_on() -> None:
    log = pl.concat(
        [
            shown("r1", -100, ["unheard of", "a"]).with_columns(
                pl.lit(20, dtype=pl.Int32).alias("first_position"),
                pl.lit('{"tab": "1"}').alias("context"),
            ),
            shown("r2", -50, ["b"]),
        ],
        how="diagonal",
    )
    lists = read_shown_lists(
        pl.concat([log, LOG.with_columns(pl.lit(None, dtype=pl.String).alias("request_id"))],
                  how="diagonal"),
        VOCABULARY, [LabelRule(objective="click", interaction="click")], window_ms=1,
    )  # fmt: skip
    assert lists.item.tolist() == [[0, 1], [2, 0]]
    assert lists.position.tolist() == [[-1, 21], [0, -1]]
    assert lists.context == ('{"tab": "1"}', None)
