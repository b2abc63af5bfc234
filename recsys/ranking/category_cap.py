"""At most so many items of one category in a list."""

from __future__ import annotations

import numpy as np

from recsys.features.batch import Int32s

Places = np.ndarray[tuple[int], np.dtype[np.intp]]
"""Places in a list of candidates, best first."""


def cap_per_category(category_index: Int32s, *, limit: int, k: int) -> Places:
    """Give the places of the ``k`` items to show, order kept.

    Items over the limit come back at the end when there are too few others: a full list with a
    broken cap serves better than a short one.

    Args:
        category_index: ``[C]`` category of each candidate, best candidate first. -1 (no category)
            is not limited.
        limit: Most items of one category.
        k: Length wanted.

    >>> cap_per_category(np.array([0, 0, 0, 1, 2], np.int32), limit=1, k=3).tolist()
    [0, 3, 4]
    >>> cap_per_category(np.array([0, 0, 0, 1], np.int32), limit=1, k=3).tolist()
    [0, 3, 1]
    """
    seen: dict[int, int] = {}
    within: list[int] = []
    over: list[int] = []
    for place, category in enumerate(category_index.tolist()):
        count = seen.get(category, 0)
        seen[category] = count + 1
        if category < 0 or count < limit:
            within.append(place)
            if len(within) == k:
                break
        else:
            over.append(place)
    return np.array((within + over)[:k], dtype=np.intp)
