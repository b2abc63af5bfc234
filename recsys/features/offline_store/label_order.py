"""Labels in the orders the join walks them in, each worked out once for all views of a request.

Axes: ``L`` labels, ``M`` those of them that may match something.

Rows come in the order of their times and are looked up by key, so labels are wanted in the order of
their moments, which is the same for every view, and by (key, moment), which is the same for every
view of one key.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]


class LabelOrder:
    """Labels by moment, and by key and moment.

    Args:
        codes: Key of each label (L,), dense from 0; -1 for a label that matches nothing.
        by_moment: The labels by their moments (L,), equal ones in any order.

    Attributes:
        by_moment: As given.
        codes: Keys of the labels that may match (M,), ascending.
        place: Where each of them stands in ``by_moment`` (M,), ascending for each key.
        labels: Which label each of them is (M,).
    """

    def __init__(self, codes: Int64s, by_moment: Int64s) -> None:
        # (key, place) fits one integer; values sort several times as fast as an order of them.
        bits = len(codes).bit_length()
        packed = codes[by_moment]
        packed <<= bits
        packed |= np.arange(len(codes))
        packed.sort()
        packed = packed[np.searchsorted(packed, 0) :]
        self.by_moment = by_moment
        self.place: Int64s = packed & ((1 << bits) - 1)
        self.labels: Int64s = by_moment[self.place]
        packed >>= bits
        self.codes: Int64s = packed
