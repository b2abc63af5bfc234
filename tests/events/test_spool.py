"""What was taken is on the disk, whatever happens next: kills, cuts, damage, a full disk."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import ConfigurationError, SpoolRefusalError
from recsys.events import spool as spool_module
from recsys.events import spool_file
from recsys.events.spool import Spool, SpoolBounds
from recsys.events.spool_folder import orphans, take_folder
from recsys.events.spool_groups import LogRecord
from tests.killed_at_line import killed_at_line


def record(n: int, size: int = 20) -> LogRecord:
    return "t", f"user-{n % 7}".encode(), f"{n}:".encode().ljust(size, b"x")


def numbers(records: list[LogRecord]) -> list[int]:
    return [int(value.split(b":")[0]) for _, _, value in records]


def drained(spool: Spool) -> list[int]:
    found: list[int] = []
    while (group := spool.first()) is not None:
        found += numbers(group.records)
        spool.remove(group)
    return found


def test_records_come_back_in_order_also_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.sqlite")
    spool.add([record(0), record(1)])
    spool.add([record(n) for n in range(2, 3_500)])  # several groups
    group = spool.first()
    assert group is not None
    assert numbers(group.records) == [0, 1]
    spool.remove(group)
    spool.close()
    again = Spool(tmp_path / "s.sqlite")
    assert again.waiting.num_records == 3_498
    assert again.waiting.num_bytes == sum(
        len(k) + len(v) for _, k, v in map(record, range(2, 3500))
    )
    assert drained(again) == list(range(2, 3_500))
    assert again.is_empty
    assert again.waiting.oldest_ms is None
    again.close()
    assert not list(tmp_path.iterdir()), "an empty spool leaves nothing"


def test_what_was_added_one_by_one_travels_together(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.sqlite")
    for n in range(30):
        spool.add([record(n)])
    group = spool.first()
    assert group is not None
    assert numbers(group.records) == list(range(30))
    spool.close()


def test_a_full_or_old_spool_refuses_and_drops_nothing(tmp_path: Path) -> None:
    now = 1_000_000
    bounds = SpoolBounds(max_bytes=100, max_age_s=60.0)
    spool = Spool(tmp_path / "s.sqlite", bounds, clock=lambda: now)
    spool.add([record(0), record(1), record(2)])
    with pytest.raises(SpoolRefusalError, match="found 78 of 100 taken") as refused:
        spool.add([record(3)])
    assert refused.value.reason == "full"
    now += 61_000
    with pytest.raises(SpoolRefusalError, match="waits for 61 s") as refused:
        spool.check()
    assert refused.value.reason == "old"
    assert drained(spool) == [0, 1, 2]
    spool.add([record(4)])
    assert drained(spool) == [4]
    spool.close()


def test_killed_at_any_line_what_was_acknowledged_is_there_in_order(tmp_path: Path) -> None:
    told, sent = tmp_path / "told", tmp_path / "sent"

    def work() -> None:
        """Add, tell, and send some: what is told or sent is written without a buffer."""
        spool = Spool(tmp_path / "s.sqlite")
        with told.open("ab", buffering=0) as tell, sent.open("ab", buffering=0) as send:
            for n in range(0, 8, 2):
                spool.add([record(n), record(n + 1)])
                tell.write(f"{n} {n + 1} ".encode())
                if n == 4:
                    group = spool.first()
                    assert group is not None
                    send.write(" ".join(map(str, numbers(group.records))).encode() + b" ")
                    spool.remove(group)
        spool.close()

    was_killed, line = True, 1
    while was_killed:
        for path in tmp_path.iterdir():
            path.unlink()
        was_killed = killed_at_line(work, {spool_module.__file__, spool_file.__file__}, line)
        acknowledged = [int(n) for n in told.read_text().split()] if told.exists() else []
        arrived = [int(n) for n in sent.read_text().split()] if sent.exists() else []
        spool = Spool(tmp_path / "s.sqlite")
        left = drained(spool)
        spool.close()
        assert left == list(range(left[0], left[0] + len(left))) if left else True
        assert set(acknowledged) <= set(arrived) | set(left)
        # Sent again is only what was not yet removed: never a part of what was sent.
        assert not set(arrived) & set(left) or set(arrived) <= set(left)
        line += 5
    assert line > 200, "the work has that many lines"


def test_a_torn_tail_costs_no_more_than_what_was_not_yet_taken(tmp_path: Path) -> None:
    """A machine that loses power leaves some beginning of what was written last."""
    spool = Spool(tmp_path / "s.sqlite")
    sizes = []
    wal = tmp_path / "s.sqlite-wal"
    for n in range(6):
        spool.add([record(n, 3_000)])
        sizes.append(wal.stat().st_size)
    whole = (tmp_path / "s.sqlite").read_bytes(), wal.read_bytes()
    cuts = sorted({*range(32, sizes[-1], 977), *sizes})
    for cut in cuts:
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / "s.sqlite").write_bytes(whole[0])
        (folder / "s.sqlite-wal").write_bytes(whole[1][:cut])
        torn = Spool(folder / "s.sqlite")
        taken = sum(size <= cut for size in sizes)
        assert drained(torn) == list(range(taken))
        torn.add([record(9)])
        assert drained(torn) == [9]
        torn.close()
        shutil.rmtree(folder)
    spool.close()


def test_a_damaged_group_is_set_aside_and_the_others_are_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.sqlite"
    spool = Spool(path)
    for n in range(3):
        spool.add([record(n, 200)])
    spool.close()
    data = bytearray(path.read_bytes())
    place = data.index(b"1:xxxx")
    data[place + 50] ^= 4
    path.write_bytes(data)
    spool = Spool(path)
    assert drained(spool) == [0, 2]
    assert "is damaged and cannot be sent" in caplog.text
    [(reason, kept)] = spool.refused()
    assert reason == "damaged"
    assert b"1:xxxx" in kept
    spool.close()
    assert path.exists(), "what was set aside is kept"


def test_a_file_that_is_no_spool_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "s.sqlite").write_bytes(b"no database at all" * 1_000)
    spool = Spool(tmp_path / "s.sqlite")
    assert "was moved to" in caplog.text
    spool.add([record(1)])
    assert drained(spool) == [1]
    assert len(list(tmp_path.glob("s.sqlite.damaged-*"))) == 1
    spool.close()


def test_a_full_disk_refuses_and_what_was_taken_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    told = tmp_path / "told"

    def until_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        spool = Spool(path)
        with pytest.raises(SpoolRefusalError, match=r"wanted room.*free some space") as refused:
            for n in range(1_000):
                spool.add([record(n, 2_000)])
                told.write_text(str(n))
        assert refused.value.reason == "disk"
        taken = int(told.read_text()) + 1
        assert spool.waiting.num_records == taken
        group = spool.first()
        assert group is not None
        spool.remove(group)  # with room for nothing: the log has them all the same
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        spool.add([record(taken, 2_000)])
        assert drained(spool) == list(range(len(group.records), taken + 1))
        spool.add([record(5)])
        os._exit(0)  # as a kill: nothing is closed

    child = os.fork()
    if child == 0:
        try:
            until_full()
        except BaseException as error:  # noqa: BLE001  told by the exit code
            sys.stderr.write(f"child failed: {error!r}\n")
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert int(told.read_text()) > 20
    spool = Spool(path)
    assert drained(spool)[-1] == 5
    spool.close()


_OWNER = """
import sys, time
from pathlib import Path
from recsys.events.spool import Spool
from recsys.events.spool_folder import take_folder
folder = take_folder(Path(sys.argv[1]))
spool = Spool(folder.path / "s.sqlite")
spool.add([("t", b"k", b"7:")])
print(folder.path.name, flush=True)
time.sleep(60)
"""


def test_each_process_has_its_own_folder_and_inherits_one_that_is_free(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "0"
        mine = take_folder(tmp_path)
        assert mine.path.name == "1"
        with orphans(tmp_path, "s.sqlite") as found:
            assert found == [], "its owner lives"
        with pytest.raises(ConfigurationError, match="locked"):
            Spool(tmp_path / "0" / "s.sqlite")
    finally:
        other.kill()
        other.communicate()
    with orphans(tmp_path, "s.sqlite") as found:
        assert found == [tmp_path / "0" / "s.sqlite"]
        second = take_folder(tmp_path)
        assert second.path.name == "2", "an orphan is somebody's while it is looked after"
    heir = take_folder(tmp_path)
    assert heir.path.name == "0"
    spool = Spool(heir.path / "s.sqlite")
    assert drained(spool) == [7]
    spool.close()
    for folder in (mine, second, heir):
        folder.close()
