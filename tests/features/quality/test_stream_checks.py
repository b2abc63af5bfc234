"""What a real worker shows at ``/metrics``: violated expectations, and freshness by view."""

from __future__ import annotations

import json
import socket
import urllib.request

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from recsys.clock import DAY_MS, now_ms
from recsys.errors import ConfigurationError
from recsys.events.schema import InteractionEvent
from recsys.features.hashes import MemoryHashes
from recsys.features.plan import PLAN_FILE
from recsys.features.quality import freshness_cli
from recsys.features.quality.expectations import Expectation
from recsys.features.quality.freshness_cli import freshness_of, own_pages, quantile
from recsys.features.stream import FeatureStream
from recsys.features.view import View
from recsys.settings import Settings
from tests.features.test_stream_worker import World, wait_told, world
from tests.features.worlds import TOPICS, in_log, random_events, small_plan

__all__ = ["world"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.servers
def test_a_worker_counts_violations_and_shows_freshness(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    name = world.plan.user_activity_names[0]
    rules = (Expectation(view="user_activity", feature=name, max=1.0),)
    msgspec.structs.replace(world.plan, expectations=rules).dump(
        world.settings.state_dir / PLAN_FILE
    )
    port = free_port()
    world.wait_ready(world.start_worker(metrics_port=port))
    writer = world.writer()
    for n in range(3):  # one batch each: the count is 1, 2, 3
        click = InteractionEvent(
            event_id=f"c{n}", event_time_ms=now_ms(), user_id="u0", item_id="i1", type="click"
        )
        world.send(writer, [click])
        wait_told(world, n + 1)
    writer.close()
    url = f"http://127.0.0.1:{port}/metrics"
    page = urllib.request.urlopen(url, timeout=5).read().decode()
    found = {
        (s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
    }
    labels = (("feature", name), ("rule", "max"), ("view", "user_activity"))
    assert found["recsys_feature_violations_total", *labels] == 2
    assert found["recsys_feature_rows_total", ("view", "user_activity")] == 3

    assert freshness_cli.main(["--url", url, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rows = {(v["view"], v["since"]): v for v in said["views"]}
    for view in ("user_activity", "item_activity", "user_history"):
        for since in ("append", "event"):
            assert rows[view, since]["num_events"] == 3
            assert 0 < rows[view, since]["percentiles_s"]["p50"] < 5
    assert freshness_cli.main(["--url", url]) == 0
    assert "1 worker, since" in capsys.readouterr().out


def test_the_observer_sees_what_is_written_and_changes_nothing() -> None:
    events = in_log(random_events(np.random.default_rng(3), start_ms=now_ms() - DAY_MS,
                                  span_ms=DAY_MS, num_events=100))  # fmt: skip

    class Seen:
        def __init__(self) -> None:
            self.rows: dict[str, int] = {}

        def observe(self, view: View, values: np.ndarray) -> None:  # type: ignore[type-arg]
            assert values.dtype == np.float32
            assert values.shape[1] == len(view.scalar_aggregates)
            self.rows[view.name] = self.rows.get(view.name, 0) + len(values)

    seen, hashes = Seen(), MemoryHashes()
    writes = FeatureStream(small_plan(), hashes, TOPICS, observer=seen).apply(events)[0]
    unseen = FeatureStream(small_plan(), MemoryHashes(), TOPICS).apply(events)[0]
    assert list(writes) == list(unseen) and len(writes) > 0
    field = small_plan().view("user_activity").timestamp_field
    assert seen.rows["user_activity"] == sum(field in w.fields for w in writes)
    assert set(seen.rows) == {v.name for v in small_plan().views if v.aggregates}


def test_quantiles_of_buckets() -> None:
    inf = float("inf")
    assert quantile({1.0: 5, 2.0: 10, inf: 10}, 0.5) == 1.0
    assert quantile({1.0: 0, 2.0: 0, inf: 4}, 0.5) == inf
    assert np.isnan(quantile({1.0: 0, inf: 0}, 0.5))


def test_workers_are_added_up() -> None:
    def page(count: int) -> str:
        name = "recsys_append_to_servable_seconds"
        return (
            f"# TYPE {name} histogram\n"
            f'{name}_bucket{{view="a",le="0.1"}} {count}\n'
            f'{name}_bucket{{view="a",le="+Inf"}} {count + 1}\n'
            f'{name}_count{{view="a"}} {count + 1}\n{name}_sum{{view="a"}} 1\n'
        )

    (row,) = freshness_of([page(4), page(2)])
    assert (row.view, row.since, row.num_events) == ("a", "append", 8)
    assert row.percentiles_s["p50"] == pytest.approx(0.1 * 4 / 6)
    assert row.percentiles_s["p99"] == float("inf")


def test_no_worker_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert freshness_cli.main(["--url", f"http://127.0.0.1:{free_port()}/metrics"]) == 2
    assert "is `recsys up` running?" in capsys.readouterr().err
    assert freshness_cli.main(["--url", "file:///etc/passwd"]) == 2
    with pytest.raises(ConfigurationError, match="RECSYS_WORKER_METRICS_PORT=0"):
        own_pages(Settings(RECSYS_WORKER_METRICS_PORT=0))
