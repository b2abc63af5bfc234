"""A pipeline on a real Ray, killed inside its steps: it goes on from checkpoints and ends the same.

One run is left alone. Another is killed (SIGKILL) in the middle of ``towers``; taken up and killed
in the middle of ``ranker``, its Ray's keeper with it; taken up and politely stopped (SIGTERM) in
``ranker``; taken up and left to end. The event log is made up, the state folder is named by a
relative path, as it is by default.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from tests.training.pipeline.checked import Checks
from tests.training.pipeline.command import Command, environment
from tests.training.pipeline.small_state import small_state

EPOCHS = 14
"""Of towers and ranker: a checkpoint each, a quarter of a second apart."""
_ENDS_WITHIN_S = 20.0
_STATE = "state"
_RAY_S_WORDS = ("SIGTERM", "*** ", "@ 0x", "raylet", "core_worker", "(pid=", "ray.")


def check_on_ray(root: Path, seed: int, checks: Checks) -> None:
    draw = random.Random(seed)
    in_towers, in_ranker = draw.randint(3, 7), draw.randint(3, 6)
    in_ranker_again = in_ranker + 2
    checks.figures["killed after epoch"] = {"towers": in_towers, "ranker": in_ranker}

    alone = _command(root / "alone")
    code = alone.end()
    bundle_id = _bundle(alone)
    checks.add("a run left alone ends", f"exit code {code}, bundle {bundle_id}", ok=code == 0)
    checks.figures["alone_s"] = round(time.monotonic() - alone.began_s)

    first = _command(root / "killed")
    first.await_epoch("towers", in_towers)
    first.kill()
    took_s = first.clean_within(_ENDS_WITHIN_S)
    checks.add(
        "driver killed in towers: its Ray ends by itself",
        f"after epoch {max(first.epochs('towers'))} of {EPOCHS}; gone after {took_s} s",
        ok=took_s is not None and bool(first.rays),
    )
    checks.figures["ray_gone_after_s"] = took_s

    second = _command(root / "killed")
    second.await_epoch("ranker", in_ranker)
    second.kill(keepers=True)
    _goes_on(checks, "towers", first, second)
    time.sleep(2.0)
    left = second.left()
    checks.say(f"driver and keeper killed: {len(left)} processes of Ray still run after 2 s")

    third = _command(root / "killed")
    third.await_epoch("ranker", in_ranker_again)
    _goes_on(checks, "ranker", second, third)
    checks.add(
        "the next run ended what driver and keeper left", f"{len(left)} processes",
        ok=second.is_clean(),
    )  # fmt: skip
    code = third.terminate()
    told = [line.strip() for line in third.said().splitlines() if line.strip()]
    checks.add("asked to stop (SIGTERM): exit code 143", code, ok=code == 143)
    checks.add(
        "it says what is kept, and nothing after it", told[-1],
        ok=" stopped: kept the steps data, " in told[-1] and "goes on from there" in told[-1],
    )  # fmt: skip
    foreign = [line for line in told if any(word in line for word in _RAY_S_WORDS)]
    checks.add("nothing of Ray's own is printed", foreign[:2] or "nothing", ok=not foreign)
    checks.add("its Ray is gone when it has ended", ok=third.is_clean())

    last = _command(root / "killed")
    code = last.end()
    _goes_on(checks, "ranker", third, last)
    made = set(last.of_kind("step_started"))
    checks.add("finished steps are not run again", sorted(made), ok=not made & {"data", "examples"})
    found = _bundle(last)
    checks.add(
        "the bundle is that of the run left alone", f"{found} and {bundle_id}",
        ok=code == 0 and found == bundle_id,
    )  # fmt: skip
    runs = {event["run"] for command in (first, second, third, last) for event in command.events()}
    checks.add("it was one run all along", ", ".join(runs), ok=len(runs) == 1)
    outputs = root / "killed" / _STATE / "training" / "pipeline"
    leftovers = [str(path) for path in outputs.glob("*/.*")]
    commands = (alone, first, second, third, last)
    checks.add(
        "no scratch, no Ray, no note is left", leftovers or "none",
        ok=not leftovers and all(command.is_clean() for command in commands),
    )  # fmt: skip


def _command(folder: Path) -> Command:
    if not folder.exists():
        small_state(folder / _STATE)
        (folder / "recipe.toml").write_text(
            'base = "debug"\nname = "many-epochs"\n'
            f"[towers]\nepochs = {EPOCHS}\n[ranker]\nepochs = {EPOCHS}\n"
        )
        (folder / "pipeline.toml").write_text(
            'recipe_file = "recipe.toml"\ndataset = "simulated"\nlease = "file"\n'
            'publish = "point"\n'
            "[gate]\nbaselines = []\nchampion_margin = 1.0\nmax_calibration_error = 1.0\n"
        )
    return Command(
        folder, folder / _STATE, "--file", "pipeline.toml",
        environment=environment(RECSYS_STATE_DIR=_STATE),
    )  # fmt: skip


def _goes_on(checks: Checks, phase: str, before: Command, after: Command) -> None:
    """The checkpoint of the last epoch that was told may not have been written yet."""
    reached, begun = max(before.epochs(phase)), min(after.epochs(phase), default=0)
    checks.add(
        f"taken up inside {phase}: from the last checkpoint",
        f"epoch {reached} of {EPOCHS} was done; goes on with {begun}",
        ok=1 < reached <= begun < EPOCHS,
    )


def _bundle(command: Command) -> str:
    lines = command.result().splitlines()
    return str(json.loads(lines[-1])["bundle_id"]) if lines else "none"
