"""The ranker's table: rounds of questions, each a shard of lists and one of the items' state.

Axes as in ``training/rounds.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from training.examples.shards import Shard, write_shard
from training.examples.tables import Column, from_parquet, to_parquet
from training.ragged import RaggedTensor
from training.rounds import QuestionRound

PREFIX, ITEMS_PREFIX = "lists-", "items-"
_OF_ITEMS = ("activity",)
"""Fields with a row for each item; the others have one for each list."""


def items_name(name: str) -> str:
    """Give the file of the items' state beside a file of lists."""
    return name.replace(PREFIX, ITEMS_PREFIX)


def write_round(
    folder: Path, number: int, question: QuestionRound, is_wanted: Callable[[str], bool]
) -> list[str]:
    """Write those files of a round that are wanted; give the names of both."""
    lists: dict[str, Column] = {}
    items: dict[str, Column] = {}
    plain: dict[str, Any] = {}
    for each in fields(question):
        name, value = each.name, getattr(question, each.name)
        if name in _OF_ITEMS:
            items[name] = value.numpy()
        elif isinstance(value, Tensor):
            lists[name] = value.numpy()
        elif isinstance(value, dict):
            lists |= {f"{name}.{key}": inner.numpy() for key, inner in value.items()}
        elif isinstance(value, tuple):
            plain[name] = len(value)
            lists |= {f"{name}.{place}": inner for place, inner in enumerate(value)}
        else:
            plain[name] = value
    name = f"{PREFIX}{number:05d}.parquet"
    if is_wanted(name):
        write_shard(folder, name, to_parquet(lists, plain), len(question.weight))
    if is_wanted(items_name(name)):
        write_shard(folder, items_name(name), to_parquet(items), len(question.activity))
    return [name, items_name(name)]


@dataclass(frozen=True)
class ListShards:
    """Rounds of a set of examples, read one at a time."""

    folder: Path
    shards: tuple[Shard, ...]
    """Of lists; those of items beside them have the same numbers."""

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[QuestionRound]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> QuestionRound:
        """Read a round."""
        name = self.shards[number].name
        lists, plain = from_parquet(self.folder / name)
        items, _ = from_parquet(self.folder / items_name(name))
        values: dict[str, Any] = {}
        for each in fields(QuestionRound):
            begin = f"{each.name}."
            inner = {k.removeprefix(begin): v for k, v in lists.items() if k.startswith(begin)}
            if each.name in items:
                values[each.name] = items[each.name]
            elif each.name in lists:
                values[each.name] = lists[each.name]
            elif isinstance(count := plain.get(each.name), int) and each.name == "labels":
                values[each.name] = tuple(_ragged(inner[str(place)]) for place in range(count))
            elif inner:
                values[each.name] = inner
            else:
                values[each.name] = plain[each.name]
        return QuestionRound(**values)


def _ragged(value: object) -> RaggedTensor:
    assert isinstance(value, RaggedTensor)
    return value
