"""Following the pointer: whole switches, nothing lost when the next bundle cannot be served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.bundle.announced import Announcement
from recsys.bundle.served import ServedBundle
from recsys.clock import now_ms
from recsys.errors import BundleError, ServerError
from recsys.events.memory import MemoryEventLog
from recsys.events.topics import Topics
from recsys.inference.live import LiveBundle
from recsys.inference.local import LocalModel
from serving.api.live_bundles import LiveBundles, WatchConfig
from tests.inference.toy_bundle import BUNDLE_DIMENSIONS, UsersOfLog, toy_bundle
from tests.inference.toy_model import ToyModel


class MemoryModelServer:
    """Models that are loaded, and those that cannot be."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.broken: set[str] = set()
        self.is_up = True

    async def is_ready(self) -> bool:
        return self.is_up

    async def is_model_ready(self, name: str) -> bool:
        return self.is_up and name in self.loaded

    async def load(self, name: str) -> None:
        if not self.is_up or name in self.broken:
            raise ServerError(f"cannot load {name}")
        self.loaded.add(name)


class Rig:
    """Pointer files, a model server and the bundles ``a``, ``b`` and ``c``."""

    def __init__(self, folder: Path) -> None:
        self.pointer = folder / "live.json"
        self.beside_file = folder / "beside.json"
        self.told: list[Announcement] = []
        self.read: list[str] = []
        self.server = MemoryModelServer()
        topics = Topics()
        log = MemoryEventLog()
        log.ensure_topics(topics.all())
        self.users = UsersOfLog(log, topics)
        model = LocalModel(ToyModel(40, dimensions=BUNDLE_DIMENSIONS))
        self.bundles = LiveBundles(
            pointers=self,
            files=[self.pointer, self.beside_file],
            load=self._load,
            serve=lambda bundle: LiveBundle(
                bundle, model, self.users, clock=now_ms, namespace="test"
            ),
            model_server=self.server,
            model_name=lambda bundle_id: f"model_{bundle_id}",
            announce=self._announce,
            config=WatchConfig(
                pointer_interval_s=0.005, model_interval_s=0.005, features_interval_s=0.005
            ),
        )

    def point_at(self, bundle_id: str) -> None:
        _replace(self.pointer, {"bundle_id": bundle_id})

    def put_beside(self, *bundle_ids: str) -> None:
        _replace(self.beside_file, {"bundle_ids": bundle_ids})

    async def _announce(self, announcement: Announcement) -> None:
        self.told.append(announcement)

    @property
    def serving(self) -> str | None:
        return self.bundles.current and self.bundles.current.bundle.bundle_id

    def live(self) -> str | None:
        if not self.pointer.exists():
            return None
        return str(json.loads(self.pointer.read_text())["bundle_id"])

    def beside(self) -> list[str]:
        if not self.beside_file.exists():
            return []
        return list(json.loads(self.beside_file.read_text())["bundle_ids"])

    def _load(self, bundle_id: str) -> ServedBundle:
        self.read.append(bundle_id)
        if bundle_id not in "abc":
            raise BundleError(f"no bundle {bundle_id}")
        return toy_bundle(bundle_id)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0.005)


def _replace(path: Path, document: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document))
    temporary.replace(path)


def test_nothing_published_is_no_trouble(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.bundles.trouble  # not looked yet
    assert not rig.bundles.can_answer
    asyncio.run(rig.bundles.follow())
    assert (rig.serving, rig.bundles.trouble) == (None, "")
    assert rig.bundles.can_answer


def test_requests_are_asked_for_once_the_first_bundle_is_taken_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.point_at("a")

    async def take_up() -> None:
        loading, loaded = asyncio.Event(), asyncio.Event()
        load = rig.server.load

        async def slow(name: str) -> None:
            loading.set()
            await loaded.wait()
            await load(name)

        rig.server.load = slow  # type: ignore[method-assign]
        following = asyncio.create_task(rig.bundles.follow())
        await loading.wait()
        assert rig.serving == "a"
        assert not rig.bundles.can_answer, "in a moment it answers from the highest rung"
        loaded.set()
        await following
        assert rig.bundles.can_answer

    asyncio.run(take_up())
    rig.server.is_up = False
    rig.point_at("b")
    asyncio.run(rig.bundles.follow())
    assert rig.bundles.trouble
    assert rig.bundles.can_answer, "with a"


def test_a_model_server_that_is_away_does_not_keep_a_new_process_out(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.server.is_up = False
    rig.point_at("a")
    asyncio.run(rig.bundles.follow())
    assert (rig.serving, rig.bundles.can_answer) == ("a", True)
    rig = Rig(tmp_path)
    rig.point_at("damaged")
    asyncio.run(rig.bundles.follow())
    assert (rig.serving, rig.bundles.can_answer) == (None, False)


def test_a_moved_pointer_switches_the_whole_bundle(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.server.loaded = {"model_a", "model_b"}
    rig.point_at("a")
    asyncio.run(rig.bundles.follow())
    held = rig.bundles.current
    rig.point_at("b")
    asyncio.run(rig.bundles.follow())
    assert rig.serving == "b"
    assert held is not None  # a request that began with a keeps it
    assert held.bundle.bundle_id == "a"


def test_a_bundle_that_cannot_be_served_leaves_the_present_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.server.loaded = {"model_a"}
    rig.server.broken = {"model_b"}
    rig.point_at("a")
    asyncio.run(rig.bundles.follow())
    for wrong, reason in (("b", "cannot load model_b"), ("x", "no bundle x")):
        rig.point_at(wrong)
        asyncio.run(rig.bundles.follow())
        assert rig.serving == "a"
        assert reason in rig.bundles.trouble
    rig.server.broken.clear()
    rig.point_at("b")
    asyncio.run(rig.bundles.follow())
    assert (rig.serving, rig.bundles.trouble) == ("b", "")


def test_the_first_bundle_serves_its_popular_items_while_its_model_is_away(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.server.is_up = False
    rig.point_at("a")
    asyncio.run(rig.bundles.follow())
    assert rig.serving == "a"
    assert rig.bundles.trouble


def test_models_a_restarted_server_forgot_are_loaded_again(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        rig.point_at("a")
        following = asyncio.create_task(rig.bundles.run())
        await asyncio.sleep(0.1)
        assert rig.server.loaded == {"model_a"}
        rig.server.loaded.clear()
        await asyncio.sleep(0.1)
        assert rig.server.loaded == {"model_a"}
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(run())


def test_features_of_another_layout_are_seen_before_the_switch_and_while_serving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        rig.users.layout = "another"
        rig.point_at("a")
        await rig.bundles.follow()
        live = rig.bundles.current
        assert live is not None
        assert "found another" in live.features_trouble
        following = asyncio.create_task(rig.bundles.run())
        rig.users.layout = "toy"  # a backfill brought them back
        await asyncio.sleep(0.1)
        assert live.features_trouble == ""
        rig.users.layout = "a third"
        await asyncio.sleep(0.1)
        assert "found a third" in live.features_trouble
        rig.users.failure = ServerError("Redis is away")  # says nothing of the layout
        await asyncio.sleep(0.05)
        assert "found a third" in live.features_trouble
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    with caplog.at_level("INFO"):
        asyncio.run(run())
    told = [record.message for record in caplog.records if "feature" in record.message
            or "popular items only" in record.message]  # fmt: skip
    assert len(told) == 3, "once for each change"
    assert "wanted layout toy, found another; run `recsys train`" in told[0]


def test_bundles_beside_the_live_one_come_and_go(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.point_at("a")
    rig.put_beside("b", "c")
    asyncio.run(rig.bundles.follow())
    assert (rig.serving, sorted(rig.bundles.beside)) == ("a", ["b", "c"])
    assert rig.server.loaded == {"model_a", "model_b", "model_c"}
    served = [rig.bundles.serving(name) for name in "abcx"]
    assert [live and live.bundle.bundle_id for live in served] == ["a", "b", "c", None]
    rig.put_beside("c")
    asyncio.run(rig.bundles.follow())
    assert rig.bundles.serving("b") is None


def test_one_beside_that_cannot_be_served_is_tried_again_and_harms_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        rig.server.broken = {"model_b"}
        rig.point_at("a")
        rig.put_beside("x", "b", "c")
        following = asyncio.create_task(rig.bundles.run())
        await until(lambda: list(rig.bundles.beside) == ["c"])
        await asyncio.sleep(0.05)
        assert (rig.serving, rig.bundles.trouble) == ("a", "")
        assert list(rig.bundles.beside) == ["c"]
        rig.server.broken.clear()
        await until(lambda: sorted(rig.bundles.beside) == ["b", "c"])
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(run())


def test_going_back_reads_nothing_again_and_what_nobody_holds_is_let_go(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for bundle_id in ("a", "b", "a"):
        rig.point_at(bundle_id)
        asyncio.run(rig.bundles.follow())
    assert rig.read == ["a", "b"]
    held_by_a_request = rig.bundles.serving("a")
    for bundle_id in ("b", "c"):
        rig.point_at(bundle_id)
        asyncio.run(rig.bundles.follow())
    assert rig.bundles.announcement() == Announcement(live="c", held=["a", "b", "c"])
    del held_by_a_request  # answered
    assert rig.bundles.announcement() == Announcement(live="c", held=["b", "c"])


def test_a_change_is_announced_at_once_and_repeated(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        rig.point_at("a")
        following = asyncio.create_task(rig.bundles.run())
        await until(lambda: rig.told[-1:] == [Announcement(live="a", held=["a"])])
        rig.put_beside("b")
        both = Announcement(live="a", beside=["b"], held=["a", "b"])
        await until(lambda: rig.told[-3:] == [both] * 3)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(run())
