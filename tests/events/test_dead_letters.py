from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from recsys.errors import EventError, InputError
from recsys.events import dead_letters, dead_letters_cli
from recsys.events.codec import decode, encode
from recsys.events.dead_letters import dead_letter, open_letter, replay, send_dead_letter
from recsys.events.log import Record
from recsys.events.memory import MemoryEventLog
from recsys.events.schema import Event
from recsys.events.topics import Topics
from tests.events.conftest import KafkaLog, Log, ReadAll
from tests.events.samples import click

BAD = b'{"kind":"interaction","event_id":"e9","surprise":1}'
RECORD = Record("t.behaviour", 1, 7, b"u\xff", b"\xff not text", 1_726_000_000_000)


def refusal_of(data: bytes) -> EventError:
    with pytest.raises(EventError) as caught:
        decode(data)
    return caught.value


def test_a_letter_keeps_the_reason_the_place_and_the_bytes() -> None:
    log = MemoryEventLog()
    log.ensure_topics(["t.dead"])
    send_dead_letter(log.writer(), "t.dead", RECORD, refusal_of(RECORD.value))
    (record,) = log.reader(topics=["t.dead"], group="g").poll(timeout_ms=0, max_records=10)
    letter = open_letter(record)
    assert (letter.topic, letter.partition, letter.offset) == ("t.behaviour", 1, 7)
    assert (letter.key, letter.value) == (RECORD.key, RECORD.value)
    assert letter.ingest_time_ms == RECORD.timestamp_ms
    assert (letter.code, letter.field) == ("malformed", "")
    assert "wanted one JSON object" in letter.reason


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff", b'{"reason":"r"}', encode(click(1))])
def test_something_else_in_the_topic_is_said(value: bytes) -> None:
    with pytest.raises(InputError, match="wanted a dead letter"):
        open_letter(Record("t.dead", 0, 0, b"", value, 0))


def test_letters_valid_after_a_fix_are_sent_once_in_order_and_others_stay(
    log: Log, new_name: Callable[[str], str], read_all: ReadAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics(namespace=new_name("dead"))
    log.ensure_topics(topics.all())
    writer = log.writer()
    now_valid = [click(n, user=f"u{n % 3}") for n in range(12)]
    for n, event in enumerate(now_valid):
        value = encode(event)
        _, key = topics.route(event)
        record = Record(topics.behaviour, 0, n, key, value, 0)
        send_dead_letter(writer, topics.dead_letters, record, EventError("as things were"))
    hopeless = Record(topics.behaviour, 0, 99, b"u0", BAD, 0)
    send_dead_letter(writer, topics.dead_letters, hopeless, refusal_of(BAD))
    late_fix = Record(topics.behaviour, 0, 100, b"u1", b"[fixed later]", 0)
    send_dead_letter(writer, topics.dead_letters, late_fix, refusal_of(late_fix.value))
    writer.append(topics.dead_letters, b"u2", b"not a letter")
    writer.flush()

    def run() -> dead_letters.ReplayReport:
        reader = log.reader(topics=[topics.dead_letters], group="replay")
        try:
            return replay(reader, writer, log.latest_positions([topics.dead_letters]))
        finally:
            reader.close()

    def sent() -> list[Event]:
        count = sum(log.latest_positions([topics.behaviour]).values())
        reader = log.reader(topics=[topics.behaviour], group="check")
        found = [decode(record.value) for record in read_all(reader, count)]
        reader.close()
        return found

    first = run()
    assert (first.num_sent, first.num_left, first.num_unreadable) == (12, 2, 1)
    for user in ("u0", "u1", "u2"):
        wanted = [event for event in now_valid if event.user_id == user]
        assert [e for e in sent() if getattr(e, "user_id", None) == user] == wanted
    second = run()
    assert (second.num_sent, second.num_left) == (0, 2)
    assert len(sent()) == 12

    def mended(data: bytes) -> Event:
        return click(100, user="u1") if data == b"[fixed later]" else decode(data)

    monkeypatch.setattr(dead_letters, "decode", mended)
    third = run()
    assert (third.num_sent, third.num_left) == (1, 1)
    monkeypatch.undo()
    assert run().num_sent == 0
    writer.close()


def test_a_crash_between_sending_and_marking_sends_the_same_ids_again() -> None:
    log = MemoryEventLog()
    topics = Topics(namespace="t")
    log.ensure_topics(topics.all())
    writer = log.writer()
    record = Record(topics.behaviour, 0, 0, b"u", encode(click(1)), 0)
    send_dead_letter(writer, topics.dead_letters, record, EventError("as things were"))

    class DiesError(Exception):
        pass

    def append_all(records: object, timeout_s: float = 30.0) -> None:
        sent = list(records)  # type: ignore[call-overload]
        if sent[0][0] == topics.dead_letters:
            raise DiesError
        for one in sent:
            writer.append(*one)

    dying = log.writer()
    dying.append_all = append_all  # type: ignore[method-assign]
    ends = log.latest_positions([topics.dead_letters])
    with pytest.raises(DiesError):
        replay(log.reader(topics=[topics.dead_letters], group="g"), dying, ends)
    again = replay(log.reader(topics=[topics.dead_letters], group="g"), writer, ends)
    assert again.num_sent == 1
    records = log.reader(topics=[topics.behaviour], group="x").poll(timeout_ms=0, max_records=9)
    assert {decode(r.value).event_id for r in records} == {"e1"}


@pytest.mark.servers
def test_the_command_line_lists_shows_and_replays(
    real_log: KafkaLog,
    new_name: Callable[[str], str],
    read_all: ReadAll,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = real_log.settings.model_copy(
        update={
            "namespace": new_name("cli"),
            "kafka_bootstrap_servers": real_log.endpoints.kafka_bootstrap_servers,
        }
    )
    topics = Topics(namespace=settings.namespace)

    def run(*argv: str) -> tuple[int, str]:
        code = dead_letters_cli.main(argv, settings=settings)
        return code, capsys.readouterr().out

    assert run("ls") == (0, "no dead letters\n")
    real_log.ensure_topics(topics.all())
    writer = real_log.writer()
    bad = Record(topics.behaviour, 3, 41, b"u", BAD, 5)
    send_dead_letter(writer, topics.dead_letters, bad, refusal_of(BAD))
    good = Record(topics.behaviour, 3, 42, b"u", encode(click(1)), 6)
    send_dead_letter(writer, topics.dead_letters, good, EventError("as things were"))
    writer.close()

    code, text = run("ls", "--json")
    first, second = (json.loads(line) for line in text.splitlines())
    assert (code, first["from"], first["state"]) == (0, f"{topics.behaviour}[3] 41", "waiting")
    code, text = run("show", first["letter"])
    shown = json.loads(text)
    assert (shown["value"], shown["key"]) == (BAD.decode(), "u")
    assert dead_letter(bad, refusal_of(BAD)).reason == shown["reason"]
    assert run("show", "0:123456")[0] == 1
    assert run("show", "first")[0] == 2

    assert run("replay") == (0, "sent 1, left 1, sent before 0, unreadable 0\n")
    assert run("replay")[1].startswith("sent 0, left 1, ")
    reader = real_log.reader(topics=[topics.behaviour], group="check")
    (record,) = read_all(reader, 1)
    reader.close()
    assert decode(record.value) == click(1)
    states = [json.loads(line)["state"] for line in run("ls", "--json")[1].splitlines()]
    assert states == ["waiting", "sent"]
    assert second["code"] == "schema"
