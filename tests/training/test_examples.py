"""Example shards: reused, repaired, bounded, the same however they are made and read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.catalogue import build_catalogue
from recsys.data.examples import visits_of
from recsys.data.interactions import read_interactions
from recsys.errors import InputError
from recsys.features.history import UserHistory
from recsys.models.encode import encode_users
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import OBJECTIVES, made_up_log
from training.examples import build as building
from training.examples import partitions, stream
from training.examples.build import Place
from training.examples.making import make_here
from training.examples.shards import MANIFEST_FILE, open_examples, read_manifest
from training.examples.stream import VisitShards
from training.prepare import prepare
from training.prepared import Prepared
from training.progress import Progress
from training.recipes import debug

ROOT = Path(__file__).parents[2]
LOG = made_up_log()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "PART_EVENTS", 250)


def made(root: Path, log: pl.DataFrame = LOG, *, make=make_here, recipe=None) -> Prepared:
    return prepare(
        log, small_plan(), recipe or debug(), OBJECTIVES, test_from_ms=None,
        progress=Progress(quiet=True), examples=Place(root=root, make=make),
    )[0]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "PART_EVENTS", 250)
        return made(tmp_path_factory.mktemp("examples"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.parquet"))}


def refuses(make, task_file: Path, parts) -> None:
    raise AssertionError(f"parts {parts} are made although they are there")


def test_the_log_is_cut_by_users_and_joins_of_a_part_are_those_of_the_whole(whole) -> None:
    assert len(whole.visits.shards) >= 3 and min(s.num_rows for s in whole.visits.shards) > 10
    every = whole.visits.between(None, None).every()
    # Joined once more, all users in one: each row is found again.
    vocabulary = build_catalogue(LOG).vocabulary
    past = read_interactions(LOG, vocabulary)
    past = past.where(past.time_ms < whole.split.test_from_ms)
    visits = visits_of(past, pause_ms=whole.recipe.towers.pause_ms)
    users = UserHistory(LOG, small_plan(), vocabulary)
    found = users.features_at([past.user_ids[u] for u in visits.user], visits.moment_ms)
    wanted = encode_users(found, whole.encoding)

    def rows(columns: dict[str, np.ndarray]) -> list[bytes]:
        length = len(columns["user_dense"])
        return sorted(
            b"".join(columns[n][i].tobytes() for n in sorted(columns)) for i in range(length)
        )

    assert rows({n: v.numpy() for n, v in every.context.items()}) == rows(wanted)
    assert (
        sorted(every.positives.flatten().tolist())[-20:]
        == sorted(visits.positives.values.tolist())[-20:]
    )


def test_what_is_there_is_used_again_and_any_change_makes_another_set(whole) -> None:
    root = whole.visits.folder.parent
    assert made(root, make=refuses).visits == whole.visits
    retuned = replace(debug(), towers=replace(debug().towers, learning_rate=1e-4, epochs=9))
    assert made(root, make=refuses, recipe=retuned).visits == whole.visits
    repaused = replace(debug(), towers=replace(debug().towers, pause_ms=1000))
    with pytest.raises(AssertionError, match="are made although"):
        made(root, make=refuses, recipe=repaused)
    with pytest.raises(AssertionError, match="are made although"):
        made(root, LOG.with_columns(pl.col("value") * 2), make=refuses)


@pytest.mark.parametrize(
    "what", ["visits-00001.parquet", "lists-00000.parquet", "items-00000.parquet"]
)
@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_bad_shard_is_said_and_made_again_alone(whole, tmp_path, caplog, what, how) -> None:
    folder = tmp_path / whole.visits.folder.name
    shutil.copytree(whole.visits.folder, folder)
    before = contents(folder)
    times = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.parquet")}
    if how == "missing":
        (folder / what).unlink()
    else:
        data = bytearray(before[what])
        data[len(data) // 2] ^= 1
        (folder / what).write_bytes(data)
    with pytest.raises(InputError, match=rf"1 of \d+ shards are missing or damaged \({what}"):
        open_examples(folder)
    made(tmp_path)
    assert f"example shard {how}" in caplog.text
    assert contents(folder) == before
    changed = {p.name for p in folder.glob("*.parquet") if p.stat().st_mtime_ns != times[p.name]}
    assert changed == {what}
    assert open_examples(folder).num_rows > 0


def test_a_set_without_a_readable_manifest_is_made_again(whole, tmp_path) -> None:
    folder = tmp_path / whole.visits.folder.name
    shutil.copytree(whole.visits.folder, folder)
    (folder / MANIFEST_FILE).write_text("{")
    before = contents(folder)
    made(tmp_path)
    assert contents(folder) == before


def test_shards_of_another_log_under_this_name_are_not_used(whole, tmp_path, caplog) -> None:
    folder = tmp_path / whole.visits.folder.name
    shutil.copytree(whole.visits.folder, folder)
    told = json.loads((folder / MANIFEST_FILE).read_text())
    told["made_from"]["vocabulary"] = "of-another-log"
    (folder / MANIFEST_FILE).write_text(json.dumps(told))
    before = contents(folder)
    (folder / "visits-00000.parquet").unlink()
    made(tmp_path)
    assert "examples of other data" in caplog.text
    assert contents(folder) == before
    assert read_manifest(folder).made_from["vocabulary"] != "of-another-log"


def test_two_at_once_make_one_set(whole, tmp_path, monkeypatch) -> None:
    calls: list[int] = []

    def slowly(make, task_file, parts) -> None:
        calls.append(1)
        time.sleep(0.3)
        make_here(make, task_file, parts)

    threads = [
        threading.Thread(target=made, args=(tmp_path,), kwargs={"make": slowly}) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert contents(tmp_path / whole.visits.folder.name) == contents(whole.visits.folder)


def test_a_killed_build_goes_on_with_the_shards_it_had_finished(whole, tmp_path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.training import test_examples as t\n"
        "from training.examples import partitions\n"
        "partitions.PART_EVENTS = 250\n"
        "def dies(make, task_file, parts):\n"
        "    make(task_file, parts[0])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.made(Path(sys.argv[1]), make=dies)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    left: list[int] = []

    def notes(make, task_file, parts) -> None:
        left.extend(parts)
        make_here(make, task_file, parts)

    made(tmp_path, make=notes)
    assert left == list(range(1, len(whole.visits.shards)))
    assert contents(tmp_path / whole.visits.folder.name) == contents(whole.visits.folder)


def test_old_sets_are_let_go(tmp_path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (number, number))
    building._forget_old(tmp_path, "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c"]


def batches(visits: VisitShards, seed: int, size: int = 16) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        b.context["user_dense"].sum(dim=1).tolist()
        for b in visits.between(None, None).batches(size, generator)
    ]


def test_every_visit_comes_once_an_epoch_in_an_order_of_its_seed(whole, monkeypatch) -> None:
    monkeypatch.setattr(stream, "WINDOW_ROWS", 60)  # several windows
    one, same, other = (batches(whole.visits, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert sorted(chain(*one)) == sorted(chain(*other))
    assert len(list(chain(*one))) == len(whole.visits)
    assert {len(b) for b in one[:-1]} == {16}


@pytest.mark.parametrize("step", [0, 1, 5, 9])
def test_an_epoch_can_begin_at_any_batch(whole, monkeypatch, step: int) -> None:
    monkeypatch.setattr(stream, "WINDOW_ROWS", 60)
    found = whole.visits.between(None, None).batches(16, torch.Generator().manual_seed(1))
    every = [b.positives.tolist() for b in found]
    assert [b.positives.tolist() for b in found.starting_at(step)] == every[step:]


def test_visits_of_a_span_of_time_are_those_and_no_others(whole) -> None:
    middle = whole.split.ranker_from_ms
    early = whole.visits.between(None, middle)
    late = whole.visits.between(middle, None)
    assert 0 < len(early) < len(whole.visits) == len(early) + len(late)
