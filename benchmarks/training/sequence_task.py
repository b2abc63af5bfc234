"""Our side of the sequence models: the next-item model over packed rows, softmax over all items.

Two ways to make examples of a user's events, both of the same pairs of a history and what came
next: ``every_place`` (how we train) reads a sequence once and predicts after every place;
``last_place`` (how RecBole trains) makes each prefix a sequence of its own with one prediction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.training.own_trainer import Batch, Task
from benchmarks.training.sequence_data import HELD_OUT
from benchmarks.training.sequence_flops import step_flops
from recsys.models.chunked_softmax import chunked_softmax
from recsys.models.config import SequenceConfig
from recsys.models.next_item import NextItemModel
from recsys.models.packing import Places, pack


def make(asked: dict[str, Any], device: torch.device) -> Task:
    """Build the model of ``asked["shape"]`` and batches of the sequences of ``asked["data"]``."""
    shape, found = asked["shape"], np.load(asked["data"])
    items, lengths = found["items"], found["lengths"]
    num_items, longest = int(items.max()), shape["history_length"]
    config = SequenceConfig(
        num_layers=shape["num_layers"], num_heads=shape["num_heads"],
        widening=shape["inner_size"] // shape["embedding_size"], max_length=longest,
        dropout=shape["dropout"], recompute=asked.get("recompute", False),
    )  # fmt: skip
    model = NextItemModel(config, size=shape["embedding_size"], num_items=num_items)
    begin, length = stretches(lengths, longest=longest, every_place=asked["every_place"])
    rng = np.random.default_rng(asked["seed"])
    batches, examples, flops = [], [], []
    events = torch.from_numpy(items)
    for _ in range(asked["batches"]):
        some = rng.choice(len(begin), min(asked["batch_size"], len(begin)), replace=False)
        packed = pack(begin[some], length[some], row_length=longest)
        used = packed.places.segment >= 0
        predicts = used if asked["every_place"] else used & (packed.places.from_newest == 0)
        place = predicts.flatten().nonzero().flatten()
        batches.append(
            tuple(
                tensor.to(device)
                for tensor in (
                    events[packed.source] * used, packed.places.segment, packed.places.from_newest,
                    place, events[packed.source.flatten()[place] + 1],
                )
            )
        )  # fmt: skip
        examples.append(len(place))
        flops.append(
            step_flops(
                length[some].tolist(), num_targets=len(place), num_items=num_items,
                embedding_size=shape["embedding_size"], num_layers=config.num_layers,
                widening=config.widening,
            )
        )  # fmt: skip
    precision = getattr(torch, asked["dtype"])

    def loss(batch: Batch) -> Tensor:
        inputs, segment, from_newest, place, target = batch
        vectors = model.item_vectors()
        states = model(inputs, Places(segment=segment, from_newest=from_newest), vectors)
        queries = states.flatten(0, 1).index_select(0, place)
        weight = torch.ones(len(place), device=place.device)
        return chunked_softmax(queries, vectors, target, weight, precision=precision)

    return Task(
        module=model, loss=loss, batches=batches, examples=examples,
        learning_rate=asked["learning_rate"],
        more={
            "num_items": num_items, "sequences_per_step": asked["batch_size"],
            "rows_per_step": round(float(np.mean([len(b[0]) for b in batches])), 1),
            "useful_flops_per_step": round(float(np.mean(flops))),
            "mean_examples_per_step": float(np.mean(examples)),
        },
    )  # fmt: skip


def stretches(
    lengths: NDArray[np.int64], *, longest: int, every_place: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give where the inputs of each sequence begin in the flat events, and how many they are.

    The event after a stretch is its last target. Of a user with more than ``longest`` inputs the
    newest are taken.
    """
    starts = np.cumsum(lengths) - lengths
    inputs = lengths - HELD_OUT - 1  # the last training event is only a target
    if not every_place:  # one sequence for each number of inputs from 1
        starts = np.repeat(starts, inputs)
        ends = np.arange(int(inputs.sum())) - np.repeat(np.cumsum(inputs) - inputs, inputs) + 1
        inputs = ends
    taken = np.minimum(inputs, longest)
    return starts + inputs - taken, taken
