"""Approximate engines in turn on the same vectors, each in a process of its own that stays.

Each is built by ``benchmarks/peers/ann/job.py`` in the environment it needs, with the cheapest of
its settings that has the recall. Then all answer the same users, one pass after the other, in an
order of its own each round: what else the machine does meanwhile meets all alike.

Axes: ``N`` items, ``Q`` users, ``D`` embedding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.features.interleaved import ratio
from benchmarks.peers.environments import python_of
from recsys.settings import Settings

OURS = (
    "ours", "faiss-hnsw", "faiss-ivf-pq", "faiss-ivf-pq-fine", "faiss-ivf-pq-graph",
    "faiss-ivf-pq-coded", "faiss-ivf-sq",
)  # fmt: skip
OTHERS = ("scann", "hnswlib", "hnswlib-wide", "usearch", "usearch-wide")
_JOB = Path(__file__).parent.parent / "peers" / "ann" / "job.py"
_K = 100
_TUNING = 500
"""Of the users; the others ask."""
_PASSES = {"one": (1, 1), "batch32": (32, 1), "batch32_2": (32, 2)}
"""Users of a call, and threads."""
_ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}


def beside_ours(
    items: np.ndarray, users: np.ndarray, engines: Sequence[str], *, what: Mapping[str, object],
    folder: Path | None, rounds: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Build ours and the named engines where they are not in ``folder`` yet, and time all in turn.

    Args:
        items: ``[N, D]``.
        users: ``[Q, D]``; the first are for choosing settings.
        engines: Names among ``OURS`` and ``OTHERS``.
        what: Says which vectors these are; a folder of others is refused.
        folder: Keeps vectors and indexes; None: nothing is kept.
        rounds: Passes over all users, for each engine.
        seed: Of the order within a round, and of the intervals.
    """
    pythons = dict.fromkeys(OURS, Path(sys.executable))
    if set(engines) & set(OTHERS):
        pythons |= dict.fromkeys(OTHERS, python_of("ann", Settings().state_dir))
    pythons = {e: python for e, python in pythons.items() if e in ("ours", *engines)}
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        _write_vectors(items, users, folder, json.dumps(what))
        for engine, python in pythons.items():
            if not (folder / f"{engine}.json").exists():
                subprocess.run(
                    _command(python, "build", engine, folder),
                    env=_ENVIRONMENT, stdout=subprocess.DEVNULL, check=True,
                )  # fmt: skip
        running = {e: stack.enter_context(_Engine.at(p, e, folder)) for e, p in pythons.items()}
        able = {name: one for name, one in running.items() if one.about["recall"] is not None}
        times = _times(able, rounds, np.random.default_rng(seed))
    result: dict[str, Any] = {"peers": [one.about for one in running.values()]}
    for name, one in able.items():
        one.about |= {f"{said}_us": float(np.median(times[said][name])) for said in _PASSES}
    others = [name for name in able if name != "ours"]
    for said in _PASSES if others else ():
        best = min(others, key=lambda name: float(np.median(times[said][name])))
        beside = ratio(times[said]["ours"], times[said][best], seed=seed)
        result.setdefault("over_best_peer", {})[said] = {"peer": best, **beside}
    return result


class _Engine:
    """A process that holds one index and times passes over the users."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.about: dict[str, Any] = self._answer()

    @classmethod
    @contextmanager
    def at(cls, python: Path, engine: str, folder: Path) -> Iterator[_Engine]:
        """Start it; it ends with the block."""
        process = subprocess.Popen(
            _command(python, "time", engine, folder),
            env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            process.communicate()  # its input ends, and with that it

    def time(self, users: int, threads: int) -> float:
        """Give the median microseconds for each user of one pass."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{users} {threads}\n")
        self._process.stdin.flush()
        return float(self._answer()["us"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # some libraries say things of their own
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")


def _times(
    engines: Mapping[str, _Engine], rounds: int, rng: np.random.Generator
) -> dict[str, dict[str, np.ndarray]]:
    """Give ``[rounds]`` microseconds of each engine for each kind of pass."""
    names = list(engines)
    times = {said: {name: np.zeros(rounds) for name in names} for said in _PASSES}
    for said, (users, threads) in _PASSES.items():
        for turn in range(-1, rounds):  # the first warms up
            for place in rng.permutation(len(names)).tolist():
                taken = engines[names[place]].time(users, threads)
                if turn >= 0:
                    times[said][names[place]][turn] = taken
    return times


def _write_vectors(items: np.ndarray, users: np.ndarray, folder: Path, what: str) -> None:
    """Write what engines are built of and asked, with the exact answers, where it is not there."""
    said = folder / "vectors.json"
    if said.exists():
        if said.read_text() != what:
            raise SystemExit(f"{folder}: wanted {what}, found {said.read_text()}; name another")
        return
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "items.npy", items)
    vectors = torch.from_numpy(items)
    for name, asked in (("tuning", users[:_TUNING]), ("queries", users[_TUNING:])):
        np.save(folder / f"{name}.npy", asked)
        found = [
            (torch.from_numpy(asked[at : at + 50]) @ vectors.T).topk(_K, dim=1).indices
            for at in range(0, len(asked), 50)
        ]
        np.save(folder / f"{name}_truth.npy", torch.cat(found).numpy())
    said.write_text(what)


def _command(python: Path, verb: str, engine: str, folder: Path) -> list[str]:
    return [str(python), str(_JOB), verb, engine, str(folder)]
