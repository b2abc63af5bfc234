"""The join on more than one machine: labels are parted by key, each part is a Ray task.

The one module of the library that imports Ray, and it is imported only when the configuration asks
for it. A task reads the source by itself (it must lie where every machine reaches it) and leaves
out what its keys rule out, so no data passes through the caller but labels and answers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.features.offline_store.computed import ComputedView
from recsys.features.offline_store.join import Joined
from recsys.features.offline_store.labels import JoinLabels

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when it is imported
import ray


def join_on_ray(
    labels: pa.Table, moment: str, views: Sequence[Joined], max_bytes: int, partitions: int
) -> pa.Table:
    """The labels with the features of all views, as ``join_views`` gives them.

    Args:
        labels: Keys and moments (L,).
        moment: Name of the moments' column.
        views: What to fetch.
        max_bytes: How much of a source a task holds at once.
        partitions: Tasks for each view.
    """
    if not ray.is_initialized():
        # RAY_ADDRESS names a cluster; without it Ray starts on this machine.
        ray.init(log_to_driver=False, include_dashboard=False)
    task = ray.remote(_features_at)
    pending = []
    for view in views:
        if isinstance(view, ComputedView):
            continue
        columns = list(dict.fromkeys([*view.label_keys, moment]))
        these = labels.select(columns)
        parts = [np.flatnonzero(n == _part_of(these, view, partitions)) for n in range(partitions)]
        pending.append(
            (
                parts,
                [task.remote(these.take(pa.array(p)), moment, view, max_bytes) for p in parts],
            )
        )
    tasks_of = iter(pending)
    for view in views:
        if isinstance(view, ComputedView):  # its events are in this process's memory
            features = view.features_at(JoinLabels(labels, moment), max_bytes)
            for name in features.column_names:
                labels = labels.append_column(name, features.column(name))
            continue
        parts, tasks = next(tasks_of)
        together = pa.concat_tables(ray.get(tasks))
        back = np.empty(labels.num_rows, dtype=np.int64)
        back[np.concatenate(parts)] = np.arange(labels.num_rows)
        features = together.combine_chunks().take(pa.array(back))
        for name in features.column_names:
            labels = labels.append_column(name, features.column(name))
    return labels


def _features_at(labels: pa.Table, moment: str, view: Joined, max_bytes: int) -> pa.Table:
    return view.features_at(JoinLabels(labels, moment), max_bytes)


def _part_of(labels: pa.Table, view: Joined, partitions: int) -> np.ndarray:
    """The part of each label (L,), by a hash of its key; all of a key are in one part."""
    if not view.label_keys:
        return np.arange(labels.num_rows) % partitions
    keys: pl.DataFrame = pl.DataFrame(labels.select(list(view.label_keys)))
    return (keys.hash_rows(seed=0) % partitions).to_numpy()
