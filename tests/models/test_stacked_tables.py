"""Stacked tables read what tables apart would read."""

from __future__ import annotations

import pytest
import torch

from recsys.errors import ConfigurationError
from recsys.models.stacked_tables import StackedTables


def test_each_feature_reads_its_own_table() -> None:
    tables = StackedTables((3, 1, 5), 4)
    apart = tables.table.weight.split((3, 1, 5))
    index = torch.tensor([[2, 0, 4], [0, 0, 1]])
    wanted = torch.stack([table[index[:, f]] for f, table in enumerate(apart)], dim=1)
    assert torch.equal(tables(index), wanted)


def test_the_offsets_are_no_part_of_the_weights() -> None:
    assert set(StackedTables((3, 1), 4).state_dict()) == {"table.weight"}


@pytest.mark.parametrize("num_rows", [(), (3, 0)])
def test_a_table_without_rows_is_refused(num_rows: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least one row"):
        StackedTables(num_rows, 4)
