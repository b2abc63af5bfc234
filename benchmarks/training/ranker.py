"""Click models: our tables, crosses and training loop beside TorchRec's DLRM, DCN and two
towers.

Usage::

    python -m benchmarks.training.ranker [--device cuda] [--shape kaggle] [--rounds 9] [--threads 2]

Both sides train the same model on the same generated batches of Criteo's shape (26 tables, 13
numbers): same tables, same layers, row-wise Adagrad on the rows that were looked up, AdamW on the
rest, on the same torch. TorchRec runs in an environment of its own with its fused tables (FBGEMM)
and, for comparison, with plain ones. Trainers take turns (``turns.py``). Prints one line of JSON.

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

from benchmarks.peers.environments import python_of
from benchmarks.training.click_data import NUM_DENSE, table_rows, write_batches
from benchmarks.training.command import device_of, parser_of, run
from benchmarks.training.machine import machine
from benchmarks.training.rates import rates, ratios, work
from benchmarks.training.turns import Trainer, profile_ours, train_in_turns
from recsys.errors import ConfigurationError
from recsys.settings import Settings

SHAPES: dict[str, dict[str, Any]] = {
    "kaggle": {  # DLRM's own for this data set
        "embedding_size": 16, "dense_layers": [512, 256, 64], "over_layers": [512, 256],
        "num_crosses": 3, "cross_rank": 108,
    },
    "wide": {  # between that and MLPerf's, which is made for eight GPUs
        "embedding_size": 64, "dense_layers": [512, 256], "over_layers": [512, 512, 256],
        "num_crosses": 3, "cross_rank": 256,
    },
    "tables": {  # hardly anything but tables: bound by memory
        "embedding_size": 64, "dense_layers": [64], "over_layers": [64],
        "num_crosses": 1, "cross_rank": 16,
    },
}  # fmt: skip
"""Sizes of the layers between the tables and the click."""
MODELS = ("dcn", "dlrm", "towers")
_BATCHES = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = parser_of("training.ranker", shapes=tuple(SHAPES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-size", type=int, help="default: 2048, on CUDA 65536")
    parser.add_argument("--most-rows", type=int, help="of a table; default: 200000, on CUDA 4e6")
    return run("training.ranker", parser, _measure, argv)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    device = device_of(arguments)
    on_cuda = device.type == "cuda"
    batch_size = arguments.batch_size or (65_536 if on_cuda else 2_048)
    rows = table_rows(arguments.most_rows or (4_000_000 if on_cuda else 200_000))
    shape = {"rows": rows, "num_dense": NUM_DENSE, **SHAPES[arguments.shape]}
    surroundings = machine(device, threads=arguments.threads)
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "batches.npz"
        write_batches(data, rows, count=_BATCHES, batch_size=batch_size, seed=arguments.seed)
        common = {
            "data": str(data), "shape": shape, "device": arguments.device,
            "threads": arguments.threads, "seed": arguments.seed, "float32_matmul": "high",
            "dense_learning_rate": 1e-3, "table_learning_rate": 1e-2,
        }  # fmt: skip
        trainers = _ours(arguments, common)
        if arguments.profile:
            profile_ours(trainers)
            return {"profiled": list(trainers)}
        if not arguments.no_peers:
            try:
                trainers |= _torchrec(arguments, common)
            except ConfigurationError as error:
                failed["torchrec"] = str(error)
        turns, others = train_in_turns(
            trainers, rounds=arguments.rounds, turn_s=arguments.turn_s, seed=arguments.seed
        )
    pairs = {
        f"{model} {ours} {dtype}": f"{model} torchrec {tables} {dtype}"
        for model in arguments.models
        for dtype in ("float32", "bfloat16")
        for ours in ("ours",)
        for tables in ("fused",)
    }
    return {
        "what": f"click models, {len(rows)} tables of at most {max(rows)} rows x "
        f"{shape['embedding_size']}, {NUM_DENSE} numbers, batches of {batch_size}",
        "machine": surroundings,
        "seed": arguments.seed,
        "rounds": arguments.rounds,
        "shape": {key: value for key, value in shape.items() if key != "rows"},
        "trainers": {
            name: {**trainer.settings, **(turns[name].ready if name in turns else {})}
            for name, trainer in trainers.items()
        },
        "rates": rates(turns, seed=arguments.seed),
        "ratios": ratios(turns, pairs, seed=arguments.seed),
        "work": work(turns, trainers, surroundings),
        "could_not_run": failed | others,
        "bars": {"ours / torchrec": ">= 1"},
    }


def _ours(arguments: argparse.Namespace, common: dict[str, Any]) -> dict[str, Trainer]:
    trainers = {}
    for model in arguments.models:
        for dtype in ("float32", "bfloat16"):
            for compiled in (False, True) if arguments.compile else (False,):
                settings = {"model": model, "dtype": dtype, "compile": compiled}
                asked = {**common, **settings, "sparse_tables": True}
                name = f"{model} ours{' compiled' if compiled else ''} {dtype}"
                trainers[name] = Trainer(
                    command=[
                        sys.executable, "-m", "benchmarks.training.own_trainer", json.dumps(asked)
                    ],
                    settings={
                        **settings,
                        "tables": "one StackedTables, RowWiseAdagrad",
                        "dense": "AdamW, fused",
                    },
                )  # fmt: skip
    return trainers


def _torchrec(arguments: argparse.Namespace, common: dict[str, Any]) -> dict[str, Trainer]:
    python = python_of("torchrec_cuda" if arguments.device == "cuda" else "torchrec",
                       Settings().state_dir)  # fmt: skip
    job = Path(__file__).parents[1] / "peers" / "torchrec" / "job.py"
    described = {
        "fused": "FusedEmbeddingBagCollection, RowWiseAdagrad in the backward pass (FBGEMM)",
        "plain": "EmbeddingBagCollection, RowWiseAdagrad by apply_optimizer_in_backward",
    }
    ways = [(t, d) for t in ("fused",) for d in ("float32", "bfloat16")] + [("plain", "float32")]
    trainers = {}
    for model in arguments.models:
        for tables, dtype in ways:
            settings = {"model": model, "dtype": dtype, "tables": tables}
            trainers[f"{model} torchrec {tables} {dtype}"] = Trainer(
                command=[str(python), str(job), json.dumps({**common, **settings})],
                settings={**settings, "tables": described[tables], "dense": "AdamW, fused"},
            )
    return trainers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
