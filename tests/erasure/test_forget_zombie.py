"""A worker that sleeps through the erasure of a user does not bring the user back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.erasure import cli
from recsys.events.schema import ForgetEvent
from tests.erasure.test_forget import click, of_others, of_user, world
from tests.features.test_stream_worker import World, wait_for, wait_told

__all__ = ["world"]
pytestmark = pytest.mark.servers


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    return "\nState:\tT" in Path(f"/proc/{process.pid}/status").read_text()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_worker_stopped_before_its_write_changes_nothing_after_the_forgetting(
    world: World, capsys: pytest.CaptureFixture[str], is_known: bool
) -> None:
    mark = world.settings.state_dir / "sleep"
    with (world.settings.state_dir / "worker.log").open("ab") as log:
        sleeper = subprocess.Popen(
            [sys.executable, "-m", "tests.erasure.sleepy_worker", str(mark), "ada"],
            env=os.environ | {"RECSYS_WORKER_METRICS_PORT": "0"},
            stderr=log,
        )
    world.workers.append(sleeper)
    writer = world.writer()
    world.wait_ready(sleeper)
    before = [click(n, user) for n in range(3) for user in ("bob", "ada")[: 1 + is_known]]
    world.send(writer, [*before])
    wait_told(world, len(before))
    mark.touch()
    world.send(writer, [click(10, "ada"), click(10, "bob")])
    wait_for(lambda: is_stopped(sleeper), 20)
    other = world.start_worker(1)
    wait_told(world, len(before) + 2, 40)  # once the sleeper's session is over
    assert of_user(world, "ada")
    others = of_others(world, "ada")
    world.send(writer, [ForgetEvent(event_id="f", event_time_ms=click(11, "ada").event_time_ms,
                                    user_id="ada")])  # fmt: skip
    wait_told(world, len(before) + 3)
    assert of_user(world, "ada") == {}
    sleeper.send_signal(signal.SIGCONT)
    wait_for(lambda: "to be another worker now" in world.said(), 20)
    world.send(writer, [click(12, "bob")])  # whoever has its partition now
    wait_told(world, len(before) + 4, 40)
    assert of_user(world, "ada") == {}
    assert of_others(world, "ada").keys() == others.keys()
    assert cli.main(["--user", "ada", "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["complete"]
    assert [place["num_left"] for place in proof["places"]] == [0] * len(proof["places"])
    assert (sleeper.poll(), other.poll()) == (None, None)
    writer.close()
