"""Whose features the made-up behaviour filled, as keys of each feature view."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.loadtest.system import Behaviour
from benchmarks.loadtest.untrained_bundle import NUM_CATEGORIES, item_id

Keys = dict[str, list[dict[str, str]]]
"""Of each view, by entity."""


def feature_keys(user_ids: Sequence[str], num_items: int) -> Keys:
    """Give the keys of some users, alone and in each category, and of all items touched.

    ``num_items``: of the bundle.
    """
    users = [{"user_id": user_id} for user_id in user_ids]
    touched = min(num_items, Behaviour.num_touched)
    return {
        "user_profile": users,
        "user_activity": users,
        "user_history": users,
        "user_category_activity": [
            {**user, "category": f"c{column}"} for user in users for column in range(NUM_CATEGORIES)
        ],
        "item_activity": [{"item_id": item_id(row)} for row in range(1, touched + 1)],
    }
