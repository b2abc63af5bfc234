"""How labels are shared out to Ray's tasks; ``verify_ray.py`` runs the tasks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import fs

from recsys.features.offline_store.join import ViewJoin
from recsys.features.offline_store.parts import Parts
from recsys.features.offline_store.ray_tasks import _part_of

LABELS = pa.table({"user": np.arange(300) % 60, "shop": [f"s{k % 7}" for k in range(300)]})


def view(*keys: str) -> ViewJoin:
    parts = Parts((), fs.LocalFileSystem(), "rows")
    return ViewJoin("v", parts, tuple((key, key) for key in keys), "at", None, None, ())


def test_labels_of_one_key_go_to_one_part_and_every_part_has_some() -> None:
    for keys in (("user",), ("user", "shop")):
        part = np.asarray(_part_of(LABELS, view(*keys), 3)).tolist()
        assert set(part) == {0, 1, 2}
        rows = list(zip(*(LABELS[key].to_pylist() for key in keys), part, strict=True))
        assert len(set(rows)) == len({row[:-1] for row in rows})


def test_labels_of_a_view_without_a_key_have_a_part_each() -> None:
    part = np.asarray(_part_of(LABELS, view(), 3))
    assert len(part) == len(LABELS) and ((part >= 0) & (part < 3)).all()
