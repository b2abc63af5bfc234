"""Rows by position come back in the order asked for, however far apart they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from recsys.features.offline_store.gather import gather
from recsys.features.offline_store.parts import Parts


@pytest.mark.parametrize(
    "rows",
    [[2, 0, 2, -1, 1], [5000, 3, -1, 5000, 4999], [-1, -1], [0], [], [0, 1, 2, 3]],
    ids=["close", "far apart", "none", "first", "empty", "one after the other"],
)
def test_rows_come_in_the_order_asked_for_and_nulls_where_there_is_none(
    tmp_path: Path, rows: list[int]
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"number": range(6000)}), path, row_group_size=1000)
    parts = Parts((str(path),), fs.LocalFileSystem(), "rows")
    found = gather(parts, np.array(rows, dtype=np.int64), ["number"], 1 << 14)
    assert found.column("number").to_pylist() == [row if row >= 0 else None for row in rows]
