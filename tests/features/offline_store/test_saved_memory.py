"""Saving an answer holds a piece of it; what was there stays until the new one is complete."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from recsys.features.offline_store.writes import replace_data

_LABELS, _ENTITIES, _FEATURES = 1_000_000, 50_000, 20
_ANSWER_MIB = _LABELS * _FEATURES * 8 / (1 << 20)
_STATUS = Path("/proc/self/status")
_PIECE = pa.table({"value": [1.0, 2.0]})


@pytest.mark.skipif(not _STATUS.exists(), reason="Linux alone says a process's own peak")
def test_a_million_rows_are_saved_in_a_fraction_of_their_size(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.features.offline_store.test_saved_memory", str(tmp_path)],
        stdout=subprocess.PIPE,
        check=True,
    )
    grown = json.loads(child.stdout)
    assert grown["saving_mib"] < _ANSWER_MIB / 2
    assert grown["holding_mib"] > _ANSWER_MIB / 2  # the same answer asked for as a table
    assert grown["equal"]
    saved = pq.read_metadata(tmp_path / "saved.parquet")
    assert saved.num_rows == _LABELS


@pytest.mark.parametrize("name", ["saved.parquet", "saved"])
@pytest.mark.parametrize("remote", [False, True])
def test_pieces_that_end_in_an_error_leave_what_was_there(
    tmp_path: Path, name: str, remote: bool
) -> None:
    filesystem: fs.FileSystem = fs.LocalFileSystem()
    path = str(tmp_path / name)
    if remote:  # no local one to the store: it cannot rename
        filesystem, path = fs.SubTreeFileSystem(str(tmp_path), filesystem), name
    assert replace_data(filesystem, path, iter([_PIECE, _PIECE]), overwrite=False)

    def broken() -> Iterator[pa.Table]:
        yield pa.table({"value": [3.0]})
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="gone"):
        replace_data(filesystem, path, broken(), overwrite=True)
    assert pq.read_table(tmp_path / name)["value"].to_pylist() == [1.0, 2.0, 1.0, 2.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]
    assert replace_data(filesystem, path, iter([_PIECE]), overwrite=True)
    assert pq.read_table(tmp_path / name)["value"].to_pylist() == [1.0, 2.0]


def _peak_mib() -> float:
    # Not getrusage: a child's begins with the peak of the process that started it.
    (line,) = [x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def _measure(folder: Path) -> dict[str, float | bool]:
    """In a process of its own: how the peak grows by saving, and by holding, an answer."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # Feast would load it for nothing
    warnings.simplefilter("ignore")
    import pandas as pd
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.types import Float64

    from tests.features.offline_store import repositories

    names = [f"f{n}" for n in range(_FEATURES)]
    first = np.datetime64("2026-06-01T00:00:00", "us")
    ids = np.arange(_ENTITIES)
    values: dict[str, object] = {n: ids * 20.0 + k for k, n in enumerate(names)}
    path = repositories.write(
        folder / "rows.parquet",
        {
            "user_id": ids,
            "event_timestamp": pa.array(first + ids, pa.timestamp("us", "UTC")),
            **values,
        },
    )
    store = repositories.store(folder / "repo", memory_limit_mb=16)
    user = repositories.entity("user_id")
    view = repositories.view("v", path, [user], dict.fromkeys(names, Float64), created=None)
    store.apply([user, view])
    many = np.random.default_rng(7).integers(0, _ENTITIES, _LABELS)
    labels = pd.DataFrame({"user_id": many, "event_timestamp": repositories.utc(2026, 6, 2)})
    wanted = [f"v:{name}" for name in names]

    def job(count: int) -> Any:
        return store.get_historical_features(labels[:count], wanted)

    job(1000).persist(SavedDatasetFileStorage(str(folder / "small.parquet")))
    whole = job(_LABELS)
    before = _peak_mib()
    whole.persist(SavedDatasetFileStorage(str(folder / "saved.parquet")))
    saved = _peak_mib()
    answer = whole.to_arrow()
    held = _peak_mib()
    back = pq.read_table(folder / "saved.parquet")
    return {
        "saving_mib": saved - before,
        "holding_mib": held - before,
        "equal": back.num_rows > 0 and back.equals(answer.cast(back.schema)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(Path(sys.argv[1]))))
