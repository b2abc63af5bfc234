"""Sequence models: our next-item tower beside RecBole's SASRec.

Usage::

    python -m benchmarks.training.sequences [--device cuda] [--shape beauty] [--rounds 9]

Same events, width, layers, heads, length, dropout and batch size in sequences, softmax over all
items on both sides, on the same torch. Events are Amazon Beauty's where ``RECSYS_DATA_DIR`` has
``amazon_beauty/Beauty.txt``, else generated ones of its shape. An example is a history and the item
that came next. RecBole makes a sequence of each, padded to the greatest length; we read a user's
events once, packed, and predict after every place. To tell the two advantages apart we are also
timed on RecBole's own examples (``last place``): one prediction a sequence. What differs besides:
RecBole normalises after each part and drops attention weights. Trainers take turns
(``turns.py``). Prints one line of JSON.

Where others use the machine, ``--threads 1`` and the ratios by the ``cpu`` clock are what counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import python_of
from benchmarks.training.command import device_of, parser_of, run
from benchmarks.training.machine import machine
from benchmarks.training.rates import rates, ratios, work
from benchmarks.training.sequence_data import (
    MEAN_LENGTH,
    NUM_ITEMS,
    NUM_USERS,
    generate,
    read_beauty,
)
from benchmarks.training.turns import Trainer, profile_ours, train_in_turns
from recsys.errors import ConfigurationError
from recsys.settings import Settings

SHAPES: dict[str, dict[str, Any]] = {
    "beauty": {  # RecBole's own width, layers and heads
        "embedding_size": 64, "inner_size": 256, "num_layers": 2, "num_heads": 2,
        "history_length": 50, "dropout": 0.2,
    },
    "wide": {
        "embedding_size": 256, "inner_size": 1024, "num_layers": 2, "num_heads": 4,
        "history_length": 50, "dropout": 0.2,
    },
    "large": {  # to fill a GPU: generated histories, most of them long
        "embedding_size": 1024, "inner_size": 4096, "num_layers": 8, "num_heads": 16,
        "history_length": 512, "dropout": 0.1,
    },
}  # fmt: skip
"""Sizes both sides have."""
_LONG = {"num_users": 2_000, "num_items": 100_000, "mean_length": 300.0}
"""Events of ``large``: RecBole keeps a whole history for each of them in memory."""
_ON_CUDA = {"large": 128}
"""Sequences of a step there, where it is not the 2,048 of RecBole's defaults."""
_BATCHES = 24
_PAIRS = {
    f"{ours} {dtype}": f"recbole {dtype}"
    for dtype in ("float32", "bfloat16")
    for ours in ("ours", "ours last place")
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = parser_of("training.sequences", shapes=tuple(SHAPES))
    parser.add_argument("--batch-size", type=int, help="sequences of a step; default: 256 on a CPU")
    parser.add_argument("--generated", action="store_true", help="whatever data there are")
    return run("training.sequences", parser, _measure, argv)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    device = device_of(arguments)
    if arguments.batch_size is None:
        on_cuda = device.type == "cuda"
        arguments.batch_size = _ON_CUDA.get(arguments.shape, 2_048) if on_cuda else 256
    surroundings = machine(device, threads=arguments.threads)
    shape = SHAPES[arguments.shape]
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "sequences.npz"
        items, lengths, source = _events(arguments, shape)
        np.savez(data, items=items, lengths=lengths)
        common = {
            "data": str(data), "shape": shape, "device": arguments.device,
            "threads": arguments.threads, "seed": arguments.seed, "float32_matmul": "high",
            "batch_size": arguments.batch_size, "batches": _BATCHES, "learning_rate": 1e-3,
        }  # fmt: skip
        trainers = _ours(arguments, common)
        if arguments.profile:
            profile_ours(trainers)
            return {"profiled": list(trainers)}
        if not arguments.no_peers:
            try:
                trainers |= _recbole(common)
            except ConfigurationError as error:
                failed["recbole"] = str(error)
        turns, others = train_in_turns(
            trainers, rounds=arguments.rounds, turn_s=arguments.turn_s, seed=arguments.seed
        )
    return {
        "what": f"next item, {len(lengths)} users, {int(items.max())} items, {len(items)} events, "
        f"batches of {arguments.batch_size} sequences",
        "data": source,
        "machine": surroundings,
        "seed": arguments.seed,
        "rounds": arguments.rounds,
        "shape": shape,
        "trainers": {
            name: {**trainer.settings, **(turns[name].ready if name in turns else {})}
            for name, trainer in trainers.items()
        },
        "rates": rates(turns, seed=arguments.seed),
        "ratios": ratios(turns, _PAIRS, seed=arguments.seed),
        "work": work(turns, trainers, surroundings),
        "could_not_run": failed | others,
        "bars": {"ours / recbole": ">= 1"},
    }


def _events(
    arguments: argparse.Namespace, shape: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Give items, lengths, and what they are."""
    path = Settings().data_dir / "amazon_beauty" / "Beauty.txt"
    if arguments.shape == "large":
        drawn = generate(**_LONG, max_length=shape["history_length"] + 3, seed=arguments.seed)
        return *drawn, f"generated, mean length {_LONG['mean_length']}"
    if path.exists() and not arguments.generated:
        return *read_beauty(path), "Amazon Beauty"
    drawn = generate(
        num_users=NUM_USERS, num_items=NUM_ITEMS, mean_length=MEAN_LENGTH, max_length=204,
        seed=arguments.seed,
    )  # fmt: skip
    return *drawn, "generated, of Amazon Beauty's shape"


def _ours(arguments: argparse.Namespace, common: dict[str, Any]) -> dict[str, Trainer]:
    trainers = {}
    for dtype in ("float32", "bfloat16"):
        for every_place in (True, False):
            for compiled in (False, True) if arguments.compile and every_place else (False,):
                asked = {
                    **common, "model": "sequence", "dtype": dtype, "every_place": every_place,
                    "compile": compiled, "sparse_tables": False,
                }  # fmt: skip
                name = f"ours{'' if every_place else ' last place'}"
                trainers[f"{name}{' compiled' if compiled else ''} {dtype}"] = Trainer(
                    command=[
                        sys.executable, "-m", "benchmarks.training.own_trainer", json.dumps(asked)
                    ],
                    settings={
                        "dtype": dtype,
                        "compile": compiled,
                        "predicts": "after every place" if every_place else "after the last place",
                        "optimiser": "AdamW, fused",
                    },
                )  # fmt: skip
    return trainers


def _recbole(common: dict[str, Any]) -> dict[str, Trainer]:
    python = python_of("recbole", Settings().state_dir)
    job = Path(__file__).parents[1] / "peers" / "recbole" / "job.py"
    return {
        f"recbole {dtype}": Trainer(
            command=[str(python), str(job), json.dumps({**common, "dtype": dtype})],
            settings={
                "dtype": dtype,
                "model": "SASRec",
                "loss_type": "CE",
                "predicts": "after the last place",
                "optimiser": "adam (RecBole's trainer)",
                "enable_amp": dtype == "bfloat16",
            },
        )
        for dtype in ("float32", "bfloat16")
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
