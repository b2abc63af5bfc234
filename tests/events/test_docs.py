"""The samples of docs/events.md are valid events, one of each kind, and its Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recsys.events.codec import decode, encode
from recsys.events.event_columns import SCHEMA
from recsys.events.log import Record, TopicPartition
from recsys.events.schema import EVENT_KINDS, InteractionEvent
from recsys.events.sink import EventSink
from recsys.events.topics import Topics

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def test_the_samples_are_valid_and_one_of_each_kind() -> None:
    samples = blocks("json")
    kinds = []
    for sample in samples:
        event = decode(sample.encode())
        assert decode(encode(event)) == event
        kinds.append(event.__struct_config__.tag)
    assert kinds == list(EVENT_KINDS)


def test_the_topics_are_those_of_the_code() -> None:
    named = re.findall(r"^\| `(recsys\.\w+)`", PAGE, re.M)
    assert tuple(named) == Topics().all()


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (sample,) = [s for s in blocks("json") if '"interaction"' in s]
    event = decode(sample.encode())
    assert isinstance(event, InteractionEvent)
    sink = EventSink(tmp_path / "event_log", [TopicPartition("recsys.behaviour", 0)])
    sink.write([(Record("recsys.behaviour", 0, 0, b"u", sample.encode(), 0), event)])
    sink.close()
    monkeypatch.setenv("RECSYS_STATE_DIR", str(tmp_path))
    (program,) = blocks("python")
    exec(compile(program, "docs/events.md", "exec"), {})
    assert event.item_id in capsys.readouterr().out
    assert "kind" in SCHEMA
