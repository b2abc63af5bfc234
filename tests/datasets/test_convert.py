from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from recsys.clock import WEEK_MS
from recsys.datasets.convert import iter_events, shift_to_present_ms, to_tables
from recsys.datasets.mapping import DatasetMapping
from recsys.errors import MappingError
from recsys.events.schema import (
    EVENT_KINDS,
    Event,
    FeedbackEvent,
    ImpressionEvent,
    InteractionEvent,
    ItemEvent,
    UserEvent,
)
from tests.datasets.conftest import real, small

LOG = """
[tables.log]
file = "log.csv"
[[interactions]]
table = "log"
user = "u"
item = "i"
time = "t"
type = "click"
"""
T0 = 1_700_000_000_000


def events(mapping: DatasetMapping, data_dir: Path, shift_ms: int = 0) -> list[Event]:
    return list(iter_events(mapping, data_dir, shift_ms=shift_ms))


def of(kind: type[Any], found: list[Event]) -> list[Any]:
    return [event for event in found if isinstance(event, kind)]


def write(folder: Path, text: str, name: str = "log.csv") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def test_the_documented_shop(shop: DatasetMapping, no_data: Path) -> None:
    found = events(shop, no_data)
    pot = of(ItemEvent, found)[0]
    assert (pot.item_id, pot.title, pot.category, pot.price) == ("001", "Tea pot", "kitchen", 24.9)
    assert pot.text == "Tea pot. Holds four cups, keeps warm"
    assert pot.born_ms == 1_705_273_200_000  # midnight of 15 January in Paris
    assert [i.available for i in of(ItemEvent, found)] == [True, True, False, True]
    users = of(UserEvent, found)
    assert users[1].attributes == {"country": "DE"}  # what is unknown is left out
    lists = of(ImpressionEvent, found)
    assert [(i.request_id, i.items) for i in lists] == [
        ("p1", ["001", "003", "002"]), ("p2", ["002", "004"]), ("p3", ["004", "001"]),
    ]  # fmt: skip
    assert lists[0].event_time_ms == lists[1].event_time_ms - 30 * 60_000  # 10:00 in Paris is 09:00
    acts = of(InteractionEvent, found)
    clicks = [a for a in acts if a.type == "click"]
    assert [(a.item_id, a.request_id, a.position) for a in clicks] == [
        ("001", "p1", 0), ("004", "p2", 1), ("004", "p3", 0),
    ]  # fmt: skip
    bought = [(a.user_id, a.item_id, a.value) for a in acts if a.type == "purchase"]
    assert bought == [
        ("17", "001", 1.0), ("17", "002", 4.0), ("23", "007", 1.0), ("42", "004", 2.0),
        ("42", "004", 2.0),
    ]  # fmt: skip
    said = of(FeedbackEvent, found)
    assert [(f.type, f.value) for f in said] == [("rating", 5.0), ("not_interested", 0.0)]


def test_events_come_in_time_order_with_profiles_first(shop: DatasetMapping, no_data: Path) -> None:
    found = events(shop, no_data)
    times = [event.event_time_ms for event in found]
    assert times == sorted(times)
    assert [type(e) for e in found[:7]] == [ItemEvent] * 4 + [UserEvent] * 3


def test_every_event_passes_the_schema(shop: DatasetMapping, no_data: Path) -> None:
    decoder = msgspec.json.Decoder(Event)
    for event in events(shop, no_data):
        assert decoder.decode(msgspec.json.encode(event)) == event


def test_a_second_conversion_gives_the_same_ids(shop: DatasetMapping, no_data: Path) -> None:
    ids = [event.event_id for event in events(shop, no_data)]
    assert [event.event_id for event in events(shop, no_data)] == ids
    assert len(set(ids)) == len(ids)


def test_ids_do_not_depend_on_other_rows_or_on_the_shift(tmp_path: Path) -> None:
    mapping = small(tmp_path, LOG)
    write(tmp_path, f"u,i,t\na,x,{T0 + 5}\na,x,{T0 + 5}\nb,y,{T0 + 9}\n")
    before = {event.event_id for event in events(mapping, tmp_path)}
    assert len(before) == 3  # a repeated row is another event
    write(tmp_path, f"u,i,t\nc,z,{T0}\nb,y,{T0 + 9}\na,x,{T0 + 5}\na,x,{T0 + 5}\n")
    after = {event.event_id for event in events(mapping, tmp_path)}
    assert before < after
    assert {event.event_id for event in events(mapping, tmp_path, WEEK_MS)} == after


def test_shift_moves_every_time(shop: DatasetMapping, no_data: Path) -> None:
    plain, moved = events(shop, no_data), events(shop, no_data, 3 * WEEK_MS)
    for before, after in zip(plain, moved, strict=True):
        assert after.event_time_ms - before.event_time_ms == 3 * WEEK_MS
    born = [
        (i.born_ms, j.born_ms)
        for i, j in zip(of(ItemEvent, plain), of(ItemEvent, moved), strict=True)
    ]
    assert all(b is not None and a is not None and b - a == 3 * WEEK_MS for a, b in born)


def test_shift_to_present_is_whole_weeks_and_never_in_the_future() -> None:
    shift = shift_to_present_ms(T0, T0 + 3 * WEEK_MS + 5)
    assert shift == 3 * WEEK_MS
    assert shift_to_present_ms(T0, T0 - 1) == -WEEK_MS


def test_rows_without_order_get_places_in_row_order_and_gaps_are_refused(tmp_path: Path) -> None:
    text = (
        LOG
        + """
[[impressions]]
table = "shown"
user = "u"
item = "i"
time = "t"
request_id = "r"
[tables.shown]
file = "shown.csv"
"""
    )
    write(tmp_path, f"u,i,t\na,x,{T0}\n")
    write(tmp_path, f"u,i,t,r,p\na,y,{T0},1,0\na,x,{T0},1,2\n", "shown.csv")
    assert of(ImpressionEvent, events(small(tmp_path, text), tmp_path))[0].items == ["y", "x"]
    with_places = text.replace('request_id = "r"', 'request_id = "r"\nposition = "p"')
    with pytest.raises(MappingError, match="positions have gaps or repeat"):
        events(small(tmp_path, with_places), tmp_path)


def test_list_columns_propensities_and_looked_up_positions(tmp_path: Path) -> None:
    mapping = small(
        tmp_path,
        """
[tables.shown]
file = "shown.parquet"
[tables.log]
file = "log.csv"
[[impressions]]
table = "shown"
user = "u"
items = "items"
propensity = "chance"
policy = "epsilon_greedy"
time = "t"
request_id = "r"
[[interactions]]
table = "log"
user = "u"
item = "i"
time = "t"
type = "click"
request_id = "r"
position = { from_impression = true }
""",
    )
    shown = {"u": [1], "items": [[7, 8, 9]], "chance": [[0.5, 0.25, 0.25]], "t": [T0], "r": [5]}
    tmp_path.mkdir(exist_ok=True)
    pl.DataFrame(shown).write_parquet(tmp_path / "shown.parquet")
    write(tmp_path, f"u,i,t,r\n1,9,{T0},5\n1,77,{T0},5\n")
    found = events(mapping, tmp_path)
    impression = of(ImpressionEvent, found)[0]
    assert (impression.items, impression.propensities) == (["7", "8", "9"], [0.5, 0.25, 0.25])
    assert impression.policy == "epsilon_greedy"
    assert [a.position for a in of(InteractionEvent, found)] == [2, None]


def test_first_seen_gives_items_their_first_moment(tmp_path: Path) -> None:
    mapping = small(
        tmp_path,
        LOG + '[items]\ntable = "log"\nid = "i"\ntime = "first_seen"\nborn = "first_seen"\n'
        'distinct = "last"\ncategory = { column = "name", rule = "last_word", top = 1 }\n',
    )
    write(
        tmp_path, f"u,i,t,name\na,x,{T0 + 7},Red Mug\na,y,{T0},Big MUG!\na,x,{T0 + 3},Red Plate\n"
    )
    items = of(ItemEvent, events(mapping, tmp_path))
    assert [(i.item_id, i.event_time_ms, i.born_ms) for i in items] == [
        ("y", T0, T0), ("x", T0 + 3, T0 + 3),
    ]  # fmt: skip
    assert [i.category for i in items] == ["mug", "other"]


def test_json_lines_with_pairs_and_paths(tmp_path: Path) -> None:
    lines = [
        {
            "event": "item", "id": "x",
            "fields": [{"name": "t", "value": "X"}, {"name": "g", "value": ["b", "a"]}],
        },
        {"event": "show", "id": "r1", "who": {"id": 3}, "items": [{"id": "x"}], "at": str(T0)},
    ]  # fmt: skip
    with gzip.open(tmp_path / "all.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    mapping = small(
        tmp_path,
        """
[tables.films]
file = "all.jsonl.gz"
pairs = ["fields"]
where = 'event == "item"'
[tables.shown]
file = "all.jsonl.gz"
where = 'event == "show"'
[items]
table = "films"
id = "id"
title = "fields.t"
category = { column = "fields.g", rule = "first" }
attributes = { genres = "fields.g" }
[[impressions]]
table = "shown"
user = "who.id"
items = "items.id"
time = "at"
request_id = "id"
event_id = "id"
""",
    )
    item, impression = events(mapping, tmp_path)
    assert isinstance(item, ItemEvent) and isinstance(impression, ImpressionEvent)
    assert (item.title, item.category, item.attributes) == ("X", "b", {"genres": ["b", "a"]})
    assert (impression.event_id, impression.user_id, impression.items) == ("r1", "3", ["x"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f",x,{T0}", "user id is missing"),
        (f"a,,{T0}", "item id is missing"),
        ("a,x,", "time is missing or unreadable"),
        ("a,x,1700000000", "time is before 2000 (is the unit right?)"),
        (f"a,{'x' * 129},{T0}", "item id is not 1 to 128 characters"),
        (f"a\x01,x,{T0}", "user id has control characters"),
    ],
)
def test_a_row_no_event_can_hold_stops_the_conversion(
    tmp_path: Path, row: str, reason: str
) -> None:
    write(tmp_path, f"u,i,t\na,x,{T0}\n{row}\n")
    mapping = small(tmp_path, LOG)
    with pytest.raises(MappingError) as caught:
        events(mapping, tmp_path)
    assert f"log.csv row 2, interactions[0]: {reason}" in str(caught.value)
    allowed = small(
        tmp_path,
        LOG + '[[check.allow]]\ncheck = "bad_rows"\nat_most = 1\nreason = "known to be broken"\n',
    )
    assert len(events(allowed, tmp_path)) == 1


def test_missing_file_and_missing_column_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"no file .*log\.csv; put it there"):
        events(small(tmp_path, LOG), tmp_path)
    write(tmp_path, f"user,i,t\na,x,{T0}\n")
    with pytest.raises(MappingError, match=r"no column 'u' \(found user, i, t\)"):
        events(small(tmp_path, LOG), tmp_path)


def test_values_must_be_numbers(tmp_path: Path) -> None:
    write(tmp_path, f"u,i,t,v\na,x,{T0},lots\n")
    with pytest.raises(MappingError, match="column 'v': wanted numbers"):
        events(small(tmp_path, LOG + 'value = "v"\n'), tmp_path)
    write(tmp_path, f"u,i,t,v\na,x,{T0},1e13\n")
    with pytest.raises(MappingError, match="value is not between"):
        events(small(tmp_path, LOG + 'value = "v"\n'), tmp_path)


def test_whole_floats_are_ids_without_a_point(tmp_path: Path) -> None:
    pl.DataFrame({"u": [17850.0], "i": [3], "t": [T0]}).write_parquet(tmp_path / "log.parquet")
    mapping = small(tmp_path, LOG.replace("log.csv", "log.parquet"))
    event = of(InteractionEvent, events(mapping, tmp_path))[0]
    assert (event.user_id, event.item_id) == ("17850", "3")


COUNTS = {
    "online_retail": (3_659, 4_334, 0, 396_337, 0),
    "kuairand_pure": (7_583, 27_285, 222_869, 175_526, 187),
    "ranklens": (2_512, 2_145, 9_800, 46_125, 0),
}
"""Events of each kind, in the order of EVENT_KINDS."""


@pytest.mark.parametrize("name", COUNTS)
def test_real_data_converts_whole(name: str) -> None:
    mapping, data_dir = real(name)
    tables = to_tables(mapping, data_dir)
    assert tables.bad_rows.height == 0
    assert tuple(tables.of_kind(kind).height for kind in EVENT_KINDS) == COUNTS[name]
    decoder, last_ms, num = msgspec.json.Decoder(Event), 0, 0
    for index, event in enumerate(iter_events(mapping, data_dir)):
        assert event.event_time_ms >= last_ms
        last_ms = event.event_time_ms
        num += 1
        if index % 50 == 0:
            assert decoder.decode(msgspec.json.encode(event)) == event
    assert num == tables.num_events
