"""The profile page: numbers by hand, a real Redis and event log, a page that asks for nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import redis as redis_py

from recsys.clock import DAY_MS
from recsys.features.current_plan import default_repository, definitions_hash
from recsys.features.hashes import MemoryHashes
from recsys.features.key_layout import EntityKeys
from recsys.features.plan import PLAN_FILE, Plan
from recsys.features.quality import profile_cli
from recsys.features.quality.expectations import Expectation
from recsys.features.quality.online_sample import sample
from recsys.features.quality.snapshot import values_at
from recsys.features.quality.statistics import histogram, profile_feature
from recsys.features.stream import FeatureStream
from recsys.features.time_layout import encode_timestamp
from recsys.features.value_layout import encode_float32_lists, encode_string, encode_strings
from recsys.features.view import View
from tests.features.quality.test_check import END, world, write_log
from tests.features.worlds import TOPICS, aggregate_view, aggregates, feature, small_plan

VOID = {"meta"}
RULES = (
    Expectation(view="item_profile", feature="price", min=5),
    Expectation(view="item_profile", feature="title", max=100),
    Expectation(view="user_activity", max_age_ms=1),
)


class Page(HTMLParser):
    """Sees that tags are closed in order and gathers what lies where."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            assert given["id"] not in self.ids
            self.ids.add(given["id"] or "")
        if "href" in given:
            self.links.append(given["href"] or "")
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "img", "iframe")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def rich_plan() -> Plan:
    """Give the small plan, a view of users and items together, and one of vectors by hand."""
    embedding = View(
        name="item_vectors",
        join_keys=("item_id",),
        features=(
            msgspec.structs.replace(
                feature("item_vectors", "stats", "float32_list"), columns=("ctr", "price<now>")
            ),
            feature("item_vectors", "embedding", "float32_list"),
            feature("item_vectors", "label", "string"),
            feature("item_vectors", "tags", "string_list"),
        ),
        ttl_ms=DAY_MS,
    )
    pair = aggregate_view("user_item", ("item_id", "user_id"), aggregates(("interaction",))[:4])
    plan = small_plan()
    return msgspec.structs.replace(plan, views=(*plan.views, pair, embedding), expectations=RULES)


def fill(url: str, plan: Plan) -> redis_py.Redis:
    client = redis_py.Redis.from_url(url)
    client.flushdb()
    hashes = MemoryHashes()
    hashes.write(FeatureStream(plan, hashes, TOPICS).apply(world())[0])
    for key, fields in hashes.content.items():
        client.hset(key, mapping=fields)
    view, rng = plan.view("item_vectors"), np.random.default_rng(1)
    for k in range(40):
        stats = np.array([k / 40, 2.0 * k], dtype=np.float32)
        vector = rng.normal(size=16).astype(np.float32)
        values = (
            encode_float32_lists(stats, np.array([0, 2]))[0],
            encode_float32_lists(vector, np.array([0, 16]))[0],
            encode_string("tea & <b>mugs</b>" if k % 4 else "mugs"),
            encode_strings(["new", "sale"][: k % 3]),
        )
        fields = {f.field_bytes: v for f, v in zip(view.features, values, strict=True)}
        old_ms = 0 if k < 30 else 2 * DAY_MS
        fields[view.timestamp_field] = encode_timestamp(END - 1000 * k - old_ms)
        client.hset(EntityKeys(view, plan.project).of(f"i{k}"), mapping=fields)
    # What else lies in a Redis: another project's entity, a key of no project, another kind.
    client.hset(EntityKeys(view, "other").of("i1"), mapping={b"x": b"y"})
    client.set("test", "a text")
    client.hset(b"nothing-of-oursNtest", mapping={b"a": b"b"})
    return client


@pytest.mark.servers
def test_the_sample_of_the_store_is_what_the_log_says(tmp_path: Path, redis_url: str) -> None:
    plan = rich_plan()
    write_log(tmp_path)
    fill(redis_url, plan).close()
    found = sample(plan, redis_url, END)
    assert found.complete
    online = {v.view.name: v for v in found.views}
    for offline in values_at(tmp_path, plan, END):
        other = online[offline.view.name]
        keys = offline.view.join_keys
        left = offline.entities.with_columns(newest=offline.newest_ms, **offline.values)
        right = other.entities.with_columns(newest=other.newest_ms, **other.values)
        assert left.sort(keys).equals(right.sort(keys).select(left.columns)), offline.view.name
        assert len(left)
    vectors = online["item_vectors"]
    assert len(vectors) == 40 and vectors.values["stats"].list.len().unique().to_list() == [2]


@pytest.mark.servers
def test_the_sample_is_bounded(redis_url: str) -> None:
    plan = rich_plan()
    fill(redis_url, plan).close()
    some = sample(plan, redis_url, END, max_entities=7)
    assert not some.complete and max(len(v) for v in some.views) == 7
    none = sample(plan, redis_url, END, max_scanned=3)
    assert not none.complete and none.num_scanned == 3


@pytest.mark.servers
def test_the_page_needs_nothing_and_says_everything(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plan = rich_plan()
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("RECSYS_NAMESPACE", "test")
    monkeypatch.setenv("REDIS_URL", redis_url)
    write_log(tmp_path / "event_log")
    here = definitions_hash(default_repository())
    msgspec.structs.replace(plan, definitions_hash=here).dump(tmp_path / PLAN_FILE)
    fill(redis_url, plan).close()
    out = tmp_path / "pages" / "profile.html"
    assert profile_cli.main(["--out", str(out), "--source", "both", "--at", str(END)]) == 0
    num_features = sum(len(v.features) for v in plan.views)
    said = capsys.readouterr().out
    assert f"{len(plan.views)} views, {num_features} features, 4 rules failed" in said
    text = out.read_text()
    page = Page(text)
    assert all(a.startswith("#") and a[1:] in page.ids for a in page.addresses)
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")
    for view in plan.views:
        assert view.name in page.ids
        assert {f"{view.name}.{f.name}" for f in view.features} <= page.ids
    assert "first i3 = 4.5" in text and "price&lt;now&gt;" in text
    assert "tea &amp; &lt;b&gt;mugs&lt;/b&gt;" in text
    row = re.search(r"#item_vectors.*?</tr>", text)
    assert row is not None and re.findall(r">([\d,]+)</td>", row[0]) == ["4", "40", "10"]

    only = ["--out", str(out), "--view", "item_profile", "--sample", "3"]
    assert profile_cli.main(only) == 0
    assert "1 views" in capsys.readouterr().out
    assert "a sample of at most 3 entities" in out.read_text()
    assert profile_cli.main(["--out", str(out), "--view", "nothing"]) == 2
    assert 'no view "nothing"' in capsys.readouterr().err
    assert profile_cli.main(["--out", "/proc/nowhere/page.html", "--at", str(END)]) == 2
    assert "wanted to write /proc/nowhere/page.html" in capsys.readouterr().err


def test_a_feature_in_numbers() -> None:
    column = pl.Series([1.0, None, float("nan"), 0.0, 4.0, 4.0])
    found = profile_feature(feature("v", "f", "float64"), [column])
    (one,), (plot,) = found.summaries, found.plots
    assert (one.num, one.num_null, one.num_zero) == (6, 2, 1)
    assert plot.distributions[0].quantiles == (0, 0, 0, 1, 4, 4, 4)
    assert (plot.distributions[0].minimum, plot.distributions[0].mean) == (0, 2.25)
    assert plot.histogram is not None and plot.histogram.counts.tolist() == [[1, 1, 2]]
    text = profile_feature(feature("v", "f", "string"), [pl.Series(["a", "bb", "bb", None])])
    assert text.top == [("bb", (2,)), ("a", (1,))] and text.summaries[0].num_distinct == 2
    empty = profile_feature(feature("v", "f", "int64"), [pl.Series([], dtype=pl.Int64)])
    assert empty.plots[0].histogram is None and empty.summaries[0].num == 0


@pytest.mark.parametrize("shape", ["few", "whole", "tail", "tail with zeros", "normal", "outlier"])
def test_every_value_is_in_a_bar(shape: str) -> None:
    rng = np.random.default_rng(3)
    values = {
        "few": rng.integers(0, 5, 1000).astype(float),
        "whole": rng.integers(-40, 200, 1000).astype(float),
        "tail": rng.lognormal(0, 4, 1000),
        "tail with zeros": rng.lognormal(0, 4, 1000) * rng.integers(0, 2, 1000),
        "normal": rng.normal(size=1000),
        "outlier": np.append(rng.normal(size=999), 1e12),
    }[shape]
    bars = histogram([values, values[:100]])
    assert bars is not None
    assert bars.counts.sum(axis=1).tolist() == [1000, 100]
    assert bars.counts.shape[1] <= 34 and (np.diff(bars.edges) > 0).all()
    if shape != "few":  # no bar holds nearly all: the outlier does not squeeze the rest
        assert bars.counts[0].max() < 600
