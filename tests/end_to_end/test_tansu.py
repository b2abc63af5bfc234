"""The short story on the fallback broker, for machines that cannot have Apache Kafka."""

from __future__ import annotations

import time
import uuid

import pytest

from benchmarks.loadtest.untrained_bundle import add_untrained_bundle, item_id
from recsys.clock import now_ms
from recsys.events.schema import InteractionEvent, ItemEvent
from recsys.features import current_plan
from tests.end_to_end.system import start_system


@pytest.mark.servers
@pytest.mark.timeout(200)
@pytest.mark.xdist_group("tansu_story")
def test_a_click_changes_the_next_answer_on_tansu(tmp_path_factory: pytest.TempPathFactory) -> None:
    system = start_system(tmp_path_factory.mktemp("tansu"), RECSYS_BROKER="tansu")
    try:
        said = system.run("up")
        assert any(s["version"].startswith("Tansu") for s in system.status()["servers"]), said
        plan = current_plan.ensure(system.settings.state_dir, project=system.settings.namespace)
        add_untrained_bundle(system.settings.bundle_dir, plan, num_items=100)
        system.run("publish")
        with system.client() as client:
            client.send_events(
                [
                    ItemEvent(
                        event_id=f"item-{row}", event_time_ms=now_ms(), item_id=item_id(row),
                        title=f"Item {row}", category="c1",
                    )
                    for row in range(1, 101)
                ]
            )  # fmt: skip
            before = client.recommend("ann", k=10)
            assert before.rung == "full", before.degraded
            clicked = before.items[0].item_id
            sent_s = time.monotonic()
            client.send_events(
                [
                    InteractionEvent(
                        event_id=uuid.uuid4().hex, event_time_ms=now_ms(), user_id="ann",
                        item_id=clicked, type="click",
                    )
                ]
            )  # fmt: skip
            while clicked in {item.item_id for item in client.recommend("ann", k=10).items}:
                assert time.monotonic() - sent_s < 15.0, "the click did not show"
    finally:
        system.run("down")
