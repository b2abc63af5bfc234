"""The item tower: all items at once, in parts, or one by one are the same vectors."""

from __future__ import annotations

import pytest
import torch

from recsys.models import two_tower
from recsys.models.config import TwoTowerConfig
from recsys.models.item_table import ItemStatics, ItemTable
from recsys.models.two_tower import ItemTower

NUM_ITEMS, NUM_CATEGORIES = 40, 3


def _tower(*, learns_newcomers: bool) -> ItemTower:
    torch.manual_seed(0)
    config = TwoTowerConfig(learns_newcomers=learns_newcomers)
    table = ItemTable(
        ItemStatics(
            category=torch.randint(0, NUM_CATEGORIES + 1, (NUM_ITEMS + 1,)),
            price=torch.rand(NUM_ITEMS + 1) * 20 - 1,
            text=torch.randint(0, config.num_text_buckets + 1, (NUM_ITEMS + 1, config.num_words)),
            has_id=torch.rand(NUM_ITEMS + 1) < 0.7,
        )
    )
    tower = ItemTower(config, table, NUM_CATEGORIES).eval()
    if tower.newcomer is not None:
        torch.nn.init.normal_(tower.newcomer)
    return tower


@pytest.mark.parametrize("learns_newcomers", [False, True])
@pytest.mark.parametrize("part", [7, NUM_ITEMS + 1, 1_000])
def test_items_embedded_in_parts_have_the_vectors_of_training(
    monkeypatch: pytest.MonkeyPatch, part: int, learns_newcomers: bool
) -> None:
    monkeypatch.setattr(two_tower, "_ROWS_OF_A_PART", part)
    tower = _tower(learns_newcomers=learns_newcomers)
    at_once = tower()
    assert at_once.requires_grad
    with torch.no_grad():
        in_parts = tower()
        alone = tower.at(torch.arange(1, NUM_ITEMS + 1))
    torch.testing.assert_close(in_parts, at_once.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(in_parts[1:], alone, atol=1e-6, rtol=0)
    assert not in_parts[0].any()
