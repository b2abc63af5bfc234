"""The towers' table: visits of a part of the users, with what was known just before each.

Axes: ``E`` visits.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from recsys.data.examples import visits_of
from recsys.data.interactions import read_interactions
from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Ragged, UserFeatures
from recsys.features.history import UserHistory, open_rows
from recsys.features.plan import Plan
from recsys.models.encode import UserEncoding, encode_users
from training.checks import check_finite
from training.examples.partitions import read_part
from training.examples.shards import Shard, write_shard
from training.examples.stream import MOMENT, POSITIVES
from training.examples.tables import Column, to_parquet
from training.ragged import RaggedTensor

PREFIX = "visits-"
_CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class VisitTask:
    """All that making a shard takes; a file of it travels to whoever makes one."""

    parts: Path
    """The cut log (``partitions.py``)."""
    out: Path
    plan: Plan
    vocabulary: Vocabulary
    encoding: UserEncoding
    pause_ms: int
    from_ms: int
    """Visits before this are left out."""
    until_ms: int
    """Nothing from here on is looked at: the test."""

    def save(self, path: Path) -> None:
        """Write the task to a file."""
        path.write_bytes(pickle.dumps(self))


def shard_name(part: int) -> str:
    """Give the file name of a part's visits."""
    return f"{PREFIX}{part:05d}.parquet"


@lru_cache(maxsize=1)
def _load(path: Path) -> VisitTask:
    task = pickle.loads(path.read_bytes())
    assert isinstance(task, VisitTask)
    return task


def make_visits(task_file: Path, part: int) -> Shard:
    """Make the shard of one part.

    Raises:
        InputError: when a feature is not a finite number.
    """
    task = _load(task_file)
    log = read_part(task.parts, part)
    every = read_interactions(log, task.vocabulary)
    visits = visits_of(every.where(every.time_ms < task.until_ms), pause_ms=task.pause_ms)
    visits = visits.where(visits.moment_ms >= task.from_ms)
    order = np.argsort(visits.moment_ms, kind="stable")
    moments = visits.moment_ms[order]
    columns: dict[str, Column] = {
        MOMENT: moments,
        POSITIVES: RaggedTensor.of(visits.positives)[torch.from_numpy(order)],
    }
    if len(visits) == 0:
        columns |= encode_users(_nobody(task), task.encoding)
    else:
        users = UserHistory(open_rows(log, task.plan), task.plan, task.vocabulary)
        ids = np.array(every.user_ids, dtype=object)[visits.user[order]]
        chunks = [slice(begin, begin + _CHUNK) for begin in range(0, len(ids), _CHUNK)]
        parts = [
            encode_users(users.features_at(list(ids[rows]), moments[rows]), task.encoding)
            for rows in chunks
        ]
        context = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        tensors = {name: torch.from_numpy(value) for name, value in context.items()}
        check_finite(tensors, task.encoding, "visits")
        columns |= context
    return write_shard(task.out, shard_name(part), to_parquet(columns), len(visits))


def _nobody(task: VisitTask) -> UserFeatures:
    """Give the features of no user, which have the columns of any."""
    encoding = task.encoding
    whole, real = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    first = np.zeros(1, dtype=np.int64)
    return UserFeatures(
        as_of_ms=whole,
        known=np.zeros(0, dtype=np.bool_),
        token_hashes=Ragged(whole, first),
        activity=real.reshape(0, len(encoding.user_activity)),
        history_index=Ragged(whole.astype(np.int32), first),
        history_count=Ragged(real, first),
        history_last_ms=Ragged(whole, first),
        category_activity=real.reshape(
            0, encoding.num_categories, len(encoding.user_category_activity)
        ),
    )
