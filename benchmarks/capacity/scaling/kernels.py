"""The arithmetic of a request by items, candidates, history, features and users in a call.

CPU milliseconds of one thread for each call, by stage: ``prepare`` (the user's half of every
model), ``retrieve`` (all default sources, fused), ``rank``, and ``answer``, which is all of them
with the best ``k`` = 20 taken, as the model server runs it. Users differ from call to call.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import psutil
import torch
from torch import Tensor

from benchmarks.capacity.scaling.bundles import bundle_of
from benchmarks.capacity.scaling.points import Task
from benchmarks.loadtest.kernels import users
from benchmarks.loadtest.untrained_bundle import Shape
from recsys.bundle.load import load_serving_model
from recsys.errors import ServerError
from recsys.features.plan import Plan
from recsys.inference.allocation import keep_freed_memory
from recsys.inference.compute import answer
from recsys.models.serving_model import ServingModel
from recsys.retrieval.search_choice import Search

BATCHES = (1, 8)
"""Users in a call at which every axis is measured; between and beyond, a call is a line in them."""
_LEAST_S = 0.35
"""CPU time of a point."""
_USERS = 48
_BYTES_AN_ITEM = 1_600
"""Of a process that has loaded a bundle, a little more than was measured (``memory.py``)."""
_STAGES = ("prepare", "retrieve", "rank", "answer")


@dataclass(frozen=True, kw_only=True)
class Size:
    """One point of the study; the defaults are the base around which one axis moves at a time."""

    items: int = 20_000
    search: Search = "exact"
    candidates: int = 500
    history: int = 50
    features: int | None = None
    """Moving features an item; None: those of the plan."""
    batch: int = 1

    @property
    def shape(self) -> Shape:
        """What of it is part of the bundle; candidates are asked for in the call."""
        return Shape(
            history_length=self.history, num_item_features=self.features, search=self.search
        )


BASE = Size()
ITEMS_WHOLE = (2_500, 5_000, 10_000)
"""Below ``search_from_items`` every source scores all items."""
ITEMS_EXACT = (20_000, 50_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
ITEMS_INDEX = (50_000, 100_000, 300_000, 1_000_000, 3_000_000)
MOST_TOGETHER = 1_000_000
"""Bundles of more items are measured one after the other, each loaded by itself."""
CANDIDATES = (100, 250, 500, 1_500, 2_000)
HISTORY = (10, 25, 50, 100, 200)
FEATURES = (8, 32, 64, 128)
CALLS = (1, 2, 4, 8, 16, 32)


def sizes() -> Iterator[Size]:
    """Give every point once, one axis at a time."""
    seen = set()
    for size in _all_sizes():
        if size not in seen:
            seen.add(size)
            yield size


def _all_sizes() -> Iterator[Size]:
    for batch in BATCHES:
        base = replace(BASE, batch=batch)
        for items in (*ITEMS_WHOLE, *ITEMS_EXACT):
            yield replace(base, items=items)
        for items in ITEMS_INDEX:
            yield replace(base, items=items, search="approximate")
        for candidates in CANDIDATES:
            yield replace(base, candidates=candidates)
        for history in HISTORY:
            yield replace(base, history=history)
        for features in FEATURES:
            yield replace(base, features=features)
    for batch in CALLS:
        yield replace(BASE, batch=batch)


def make_bundles(folder: Path, plan: Plan, *, most_items: int) -> None:
    """Make the bundles of all points, the small ones first."""
    for size in sorted(sizes(), key=lambda size: size.items):
        if size.items <= most_items:
            bundle_of(folder, plan, size.items, size.shape)


def task_groups(folder: Path, plan: Plan, *, most_items: int) -> list[list[Task]]:
    """Give the points up to ``most_items``: those that are measured in turn, then by bundle.

    Bundles are loaded when they are first measured, made where missing.
    """
    keep_freed_memory()
    torch.set_num_threads(1)
    models = _Models(folder, plan)
    groups: dict[tuple[int, Shape] | None, list[Task]] = {}
    for size in sorted(sizes(), key=lambda size: max(size.items, MOST_TOGETHER)):
        if size.items > most_items:
            continue
        settings = {
            "items": size.items, "search": size.search, "candidates": size.candidates,
            "history": size.history, "batch": size.batch,
            "features": size.features or len(plan.item_activity_names),
        }  # fmt: skip
        name = " ".join(f"{k}={v}" for k, v in settings.items())
        group = None if size.items <= MOST_TOGETHER else (size.items, size.shape)
        task = Task(name=name, settings=settings, run=_timed(models, size))
        groups.setdefault(group, []).append(task)
    return list(groups.values())


class _Models:
    """What is loaded: bundles of up to ``MOST_TOGETHER`` items, or one larger one."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        self._loaded: dict[tuple[int, Shape], ServingModel] = {}

    def of(self, size: Size) -> ServingModel:
        """Give the model of a size. Raises ServerError where there is too little memory for it."""
        key = (size.items, size.shape)
        if key not in self._loaded:
            if size.items > MOST_TOGETHER:
                self._loaded.clear()
                gc.collect()
                _require_memory(size.items)
            bundle = bundle_of(self._folder, self._plan, size.items, size.shape)
            self._loaded[key] = load_serving_model(bundle)
        return self._loaded[key]


def _require_memory(items: int) -> None:
    wanted, free = items * _BYTES_AN_ITEM, psutil.virtual_memory().available
    if wanted > free:
        raise ServerError(
            f"wanted {wanted / 2**30:.1f} GiB of free memory for {items} items, found "
            f"{free / 2**30:.1f}; end what runs beside this, or measure with --most-items"
        )


def _timed(models: _Models, size: Size) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        model = models.of(size)
        drawn = users(model.dimensions, model.num_items, max(_USERS, size.batch), seed=size.batch)
        calls = [
            {name: tensor[at : at + size.batch] for name, tensor in drawn.items()}
            for at in range(0, max(_USERS, size.batch) - size.batch + 1, size.batch)
        ]
        taken: dict[str, list[float]] = {stage: [] for stage in _STAGES}
        gc.collect()
        for inputs in calls[:2]:
            _one_call(model, inputs, size.candidates)
        end, place = time.process_time() + _LEAST_S, 0
        while time.process_time() < end or place < 3:
            inputs = calls[place % len(calls)]
            for stage, spent in _one_call(model, inputs, size.candidates).items():
                taken[stage].append(spent)
            place += 1
        return {stage: round(median(spent) * 1e3, 5) for stage, spent in taken.items()}

    return run


def _one_call(model: ServingModel, inputs: dict[str, Tensor], candidates: int) -> dict[str, float]:
    """Give the CPU seconds of each stage, then of the whole answer to the same users."""
    clock = time.process_time
    with torch.inference_mode():
        begin = clock()
        user = model.prepare(inputs)
        prepared = clock()
        found = model.retrieve(
            user, num_candidates=min(candidates, model.num_items),
            exclude_index=inputs["exclude_index"], exclude_history=inputs["exclude_history"],
        )  # fmt: skip
        retrieved = clock()
        model.rank(user, found)
        ranked = clock()
    answer(model, inputs, num_candidates=candidates)
    return {
        "prepare": prepared - begin, "retrieve": retrieved - prepared, "rank": ranked - retrieved,
        "answer": clock() - ranked,
    }  # fmt: skip
