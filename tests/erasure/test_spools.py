"""What waits on the disk for Kafka does not bring a forgotten user back."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.erasure.spools import UserSpools
from recsys.errors import ConfigurationError
from recsys.events.spool import Spool
from recsys.events.spool_folder import EVENTS_FILE, EXPOSURES_FILE, take_folder
from recsys.events.spool_groups import LogRecord
from recsys.events.topics import Topics

TOPICS = Topics(namespace="test")


def record(user: str, n: int, topic: str = TOPICS.behaviour) -> LogRecord:
    return topic, user.encode(), f"{user} did {n}".encode()


def waiting(path: Path) -> list[bytes]:
    spool, found = Spool(path), []
    while (group := spool.first()) is not None:
        found += [value for _, _, value in group.records]
        spool.remove(group)
    spool.close()
    return found


def test_of_a_spool_whose_process_is_gone_the_users_records_go_with_their_bytes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "0" / EVENTS_FILE
    spool = Spool(path)
    for n in range(0, 300, 3):
        spool.add([record("ada", n), record("bob", n + 1), record("ada", 1000 + n, TOPICS.items)])
    spool.add([record("ada", 900)])
    spool.keep_refused(record("ada", 901), "too large")
    spool.keep_refused(record("bob", 902), "too large")
    spool.close()
    exposures = Spool(tmp_path / "1" / EXPOSURES_FILE)
    exposures.add([record("ada", n, TOPICS.exposures) for n in range(5)])
    exposures.close()

    spools = UserSpools(tmp_path, TOPICS)
    found = spools.look("ada")
    assert (found.num_files, found.num_records, found.busy) == (2, 107, ())
    assert spools.look("nobody").num_records == 0
    assert spools.erase("ada").num_records == 107
    assert spools.look("ada").num_records == 0
    assert not (tmp_path / "1" / EXPOSURES_FILE).exists(), "nothing waits there any more"
    kept = b"".join(file.read_bytes() for file in (tmp_path / "0").iterdir())
    assert b"ada did 0" not in kept and b"ada did 9" not in kept
    assert b"bob did 902" in kept
    left = waiting(path)
    assert left == [
        value for n in range(0, 300, 3)
        for value in (b"bob did %d" % (n + 1), b"ada did %d" % (1000 + n))
    ], "ada is an item, too"  # fmt: skip


def test_a_spool_of_a_running_process_is_left_to_it_and_named_while_it_holds_something(
    tmp_path: Path,
) -> None:
    folder = take_folder(tmp_path)
    spool = Spool(folder.path / EVENTS_FILE)
    spools = UserSpools(tmp_path, TOPICS)
    assert spools.look("ada").busy == ()
    spool.add([record("ada", 1)])
    assert spools.erase("ada").busy == (folder.path / EVENTS_FILE,)
    group = spool.first()
    assert group is not None
    assert [value for _, _, value in group.records] == [b"ada did 1"]
    spool.remove(group)
    assert spools.look("ada").busy == (), "it is sent"
    spool.add([record("ada", 2)])
    assert spools.look("ada").busy
    spool.close()
    folder.close()
    assert spools.erase("ada").num_records == 1


@pytest.mark.parametrize("what", ["group", "file"])
def test_a_damaged_spool_is_named_and_not_called_searched(tmp_path: Path, what: str) -> None:
    path = tmp_path / "0" / EVENTS_FILE
    spool = Spool(path)
    spool.add([record("ada", 1)])
    spool.close()
    data = bytearray(path.read_bytes())
    data[data.index(b"ada did 1")] ^= 1
    path.write_bytes(data if what == "group" else b"no database" * 999)
    spools = UserSpools(tmp_path, TOPICS)
    for _ in range(2):  # its owner sets it aside in between, which changes nothing
        for deed in (spools.look, spools.erase):
            with pytest.raises(ConfigurationError, match="run the command again"):
                deed("ada")
        waiting(path)
