"""SASRec of RecBole, timed in an environment of its own (``requirements.txt``).

Usage::

    python job.py '{"data": "sequences.npz", "shape": {...}, "dtype": "float32", ...}'

Reads ``{"steps": n}`` from standard input, trains so many steps and answers with a line of JSON;
``benchmarks/training/turns.py`` is the other end. The data set goes through RecBole's own reader,
leave-one-out split and sequence augmentation (each prefix of a user's events is an example with
the next event as its one target), the model and the optimiser are those its ``Trainer`` makes, and
a step is that of ``Trainer._train_epoch`` without the ``.item()`` of every step. ``bfloat16`` is
its ``enable_amp``. Batches are made before the clock starts.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

protocol = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever libraries print must not be taken for answers
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import recbole  # noqa: E402
import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.sequential_recommender import SASRec  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402


def main() -> None:
    """Build, say so, and train as often as asked."""
    asked = json.loads(sys.argv[1])
    # Importing one of its other models (SINE) leaves torch looking for NaN in every gradient, which
    # takes half of the time; nobody asked for it.
    torch.autograd.set_detect_anomaly(False)
    torch.manual_seed(asked["seed"])
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # logs of its own are written where it is
        config = _config(asked, folder)
        dataset = create_dataset(config)
        loader, _, _ = data_preparation(config, dataset)
        model = SASRec(config, loader.dataset).to(config["device"])
        trainer = Trainer(config, model)
        device = trainer.device
        batches = [batch.to(device) for batch in _some(loader, asked["batches"])]
        os.chdir("/")
    torch.set_num_threads(asked["threads"])
    if asked["dtype"] == "float32" and device.type == "cuda":
        torch.set_float32_matmul_precision(asked["float32_matmul"])
    model.train()

    def step(batch) -> torch.Tensor:
        trainer.optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=trainer.enable_amp):
            loss = model.calculate_loss(batch)
        loss.backward()
        trainer.optimizer.step()
        return loss.detach()

    with FlopCounterMode(display=False) as counter:
        step(batches[0])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _serve(asked, step, batches, counter.get_total_flops(), device, model.n_items - 1)


def _config(asked: dict, folder: str) -> Config:
    """Write the events as RecBole reads them, and give the run's configuration."""
    found, shape = np.load(asked["data"]), asked["shape"]
    users = np.repeat(np.arange(len(found["lengths"])), found["lengths"])
    target = Path(folder) / "events"
    target.mkdir()
    with (target / "events.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for time_, (user, item) in enumerate(zip(users, found["items"], strict=True)):
            file.write(f"{user}\t{item}\t{time_}\n")
    return Config(
        model="SASRec",
        dataset="events",
        config_dict={
            "data_path": folder,
            "checkpoint_dir": folder,
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "item_id",
            "TIME_FIELD": "timestamp",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": shape["history_length"],
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "n_layers": shape["num_layers"],
            "n_heads": shape["num_heads"],
            "hidden_size": shape["embedding_size"],
            "inner_size": shape["inner_size"],
            "hidden_dropout_prob": shape["dropout"],
            "attn_dropout_prob": shape["dropout"],
            "train_batch_size": asked["batch_size"],
            "learner": "adam",
            "learning_rate": asked["learning_rate"],
            "enable_amp": asked["dtype"] == "bfloat16",
            "use_gpu": asked["device"] == "cuda",
            "reproducibility": False,
            "show_progress": False,
            "seed": asked["seed"],
            "state": "CRITICAL",
        },
    )


def _some(loader, count: int) -> list:
    batches = []
    for batch in loader:
        if len(batch) == loader.step:
            batches.append(batch)
        if len(batches) == count:
            break
    return batches


def _serve(asked: dict, step, batches: list, flops: int, device, num_items: int) -> None:
    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    batch_size = len(batches[0])
    _say({
        "flops_per_step": flops, "examples_per_step": batch_size,
        "mean_examples_per_step": batch_size, "sequences_per_step": batch_size,
        "num_items": num_items,
        "versions": {"torch": torch.__version__, "recbole": recbole.__version__},
    })  # fmt: skip
    turn = 0
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        losses = []
        settle()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            losses.append(step(batches[turn % len(batches)]))
            turn += 1
        settle()
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        _say({
            "examples": steps * batch_size, "wall_s": wall_s, "cpu_s": cpu_s,
            "loss": float(torch.stack(losses).mean()), "peak_bytes": _peak(device),
        })  # fmt: skip


def _peak(device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _say(answer: dict) -> None:
    protocol.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
