"""Visits read from shards in batches: memory stays that of a window, however many there are.

An epoch's order: shards permuted, taken together until a window is full, the window's rows
permuted. It depends on the generator alone, so every worker sees the same batches, whatever their
number, and takes its rows; a run can begin at any batch without reading those before its window.

Axes: ``B`` visits of a batch, ``P`` positives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.errors import InputError
from training.examples.shards import Shard
from training.examples.tables import from_parquet
from training.ragged import RaggedTensor
from training.rounds import Context

MOMENT, POSITIVES = "moment_ms", "positives"
WINDOW_ROWS = 32_768
"""Rows shuffled together, about 60 MB: more than the visits of a shop's year."""


@dataclass(frozen=True, kw_only=True)
class VisitBatch:
    """Some visits."""

    context: Context
    """``[B, ...]`` user tensors, one millisecond before each visit."""
    moment_ms: Tensor
    """``[B]`` int64: one millisecond before the visit's first item."""
    positives: Tensor
    """``[B, P]`` item rows, 0 pads."""

    def __len__(self) -> int:
        return len(self.positives)


@dataclass(frozen=True)
class VisitShards:
    """Visits of a set of examples, sorted by moment within each shard."""

    folder: Path
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(shard.num_rows for shard in self.shards)

    def between(self, from_ms: int | None, until_ms: int | None) -> VisitSelection:
        """Give the visits whose moment is in ``[from_ms, until_ms)``; None leaves a side open."""
        ranges = []
        for shard in self.shards:
            found, _ = from_parquet(self.folder / shard.name, [MOMENT])
            moments = found[MOMENT]
            assert isinstance(moments, Tensor)
            times = moments.numpy()
            begin = 0 if from_ms is None else int(np.searchsorted(times, from_ms))
            end = len(times) if until_ms is None else int(np.searchsorted(times, until_ms))
            ranges.append((begin, max(end, begin)))
        return VisitSelection(self.folder, self.shards, tuple(ranges), until_ms)


@dataclass(frozen=True)
class VisitSelection:
    """Visits of a span of time."""

    folder: Path
    shards: tuple[Shard, ...]
    ranges: tuple[tuple[int, int], ...]
    """First row and the row after the last, of each shard."""
    until_ms: int | None
    """All moments are before this."""

    def __len__(self) -> int:
        return sum(end - begin for begin, end in self.ranges)

    def column(self, name: str, *, limit: int) -> Tensor:
        """Give ``[<= limit, ...]`` rows of one column, those of the first shards."""
        parts: list[Tensor] = []
        left = limit
        for number in range(len(self.shards)):
            if left <= 0:
                break
            found = self._read(number, [name])[name]
            assert isinstance(found, Tensor)
            parts.append(found[:left])
            left -= len(parts[-1])
        return torch.cat(parts)

    def taken(self, num_rows: int) -> Tensor:
        """Give ``[num_rows]`` bool: the item rows that were taken in any of these visits."""
        found = torch.zeros(num_rows, dtype=torch.bool)
        for number in range(len(self.shards)):
            positives = self._read(number, [POSITIVES])[POSITIVES]
            assert isinstance(positives, RaggedTensor)
            found[positives.values] = True
        return found

    def batches(
        self, size: int, generator: torch.Generator | None, *, least: int = 1
    ) -> VisitBatches:
        """Give the batches of an epoch, shuffled by ``generator``; None keeps the order.

        A last batch with fewer than ``least`` rows is left out.
        """
        return VisitBatches(self, size, generator, least)

    def every(self) -> VisitBatch:
        """Give all of them at once; for small sets."""
        whole = _joined([self._read(n) for n in range(len(self.shards))])
        return _batch(whole, torch.arange(len(self)))

    def _read(
        self, number: int, columns: list[str] | None = None
    ) -> dict[str, Tensor | RaggedTensor]:
        path = self.folder / self.shards[number].name
        try:
            found, _ = from_parquet(path, columns)
        except OSError as error:
            raise InputError(
                f"{path}: wanted an example shard, found: {error}; run the training again, it "
                "makes what is missing or damaged anew"
            ) from error
        begin, end = self.ranges[number]
        return {
            name: value.rows(begin, end) if isinstance(value, RaggedTensor) else value[begin:end]
            for name, value in found.items()
        }


class VisitBatches:
    """The batches of one epoch."""

    def __init__(
        self, visits: VisitSelection, size: int, generator: torch.Generator | None, least: int
    ) -> None:
        self._visits = visits
        self._size = size
        lengths = [end - begin for begin, end in visits.ranges]
        count = len(lengths)
        order = torch.arange(count)
        if generator is not None:
            order = torch.randperm(count, generator=generator)
        self._windows: list[list[int]] = [[]]
        held = 0
        for number in order.tolist():
            if held >= WINDOW_ROWS:
                self._windows.append([])
                held = 0
            if lengths[number]:
                self._windows[-1].append(number)
                held += lengths[number]
        self._rows = [sum(lengths[n] for n in window) for window in self._windows]
        self._seeds: list[int | None] = [None] * len(self._windows)
        if generator is not None:
            drawn = torch.randint(2**62, (len(self._windows),), generator=generator)
            self._seeds = list(drawn.tolist())
        total = sum(self._rows)
        self._length = -(-total // size)
        if self._length > 1 and total - (self._length - 1) * size < least:
            self._length -= 1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[VisitBatch]:
        return self.starting_at(0)

    def starting_at(self, step: int) -> Iterator[VisitBatch]:
        """Give the batches from number ``step`` on."""
        skip = step * self._size
        left = self._length - step
        rest: dict[str, Tensor | RaggedTensor] | None = None
        for number, window in enumerate(self._windows):
            if skip >= self._rows[number]:
                skip -= self._rows[number]
                continue
            parts = [self._visits._read(shard) for shard in window]
            now = _taken(_joined(parts), self._order(number)[skip:])
            del parts
            skip = 0
            if rest is not None:
                now = _joined([rest, now])
            size = _length(now)
            whole = size - size % self._size
            is_last = number + 1 == len(self._windows)
            for begin in range(0, size if is_last else whole, self._size):
                if left <= 0:
                    return
                left -= 1
                yield _batch(now, torch.arange(begin, min(begin + self._size, size)))
            rest = _taken(now, torch.arange(whole, size))

    def _order(self, window: int) -> Tensor:
        seed = self._seeds[window]
        if seed is None:
            return torch.arange(self._rows[window])
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(self._rows[window], generator=generator)


Columns = dict[str, Tensor | RaggedTensor]


def _length(columns: Columns) -> int:
    moments = columns[MOMENT]
    assert isinstance(moments, Tensor)
    return len(moments)


def _joined(parts: list[Columns]) -> Columns:
    return {
        name: RaggedTensor.joined([part[name] for part in parts])  # type: ignore[misc]
        if isinstance(parts[0][name], RaggedTensor)
        else torch.cat([part[name] for part in parts])  # type: ignore[misc]
        for name in parts[0]
    }


def _taken(columns: Columns, rows: Tensor) -> Columns:
    return {name: value[rows] for name, value in columns.items()}


def _batch(columns: Columns, rows: Tensor) -> VisitBatch:
    moments, positives = columns[MOMENT], columns[POSITIVES]
    assert isinstance(moments, Tensor) and isinstance(positives, RaggedTensor)
    context = {
        name: value[rows]
        for name, value in columns.items()
        if name not in (MOMENT, POSITIVES) and isinstance(value, Tensor)
    }
    return VisitBatch(context=context, moment_ms=moments[rows], positives=positives.padded(rows))
