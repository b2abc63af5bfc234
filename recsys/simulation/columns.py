"""Events not yet made, as columns: what waits for its time costs no objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from recsys.simulation.counter_random import Floats, Ints
from recsys.simulation.sessions import Page, Visits
from recsys.simulation.users import DEVICES

ITEM, WITHDRAWAL, USER, IMPRESSION = range(4)
"""Kinds before the actions, in the order in which they stand at the same instant."""
ACTIONS: tuple[tuple[str, str], ...] = (
    ("click", "c"), ("long_view", "l"), ("add_to_cart", "a"), ("purchase", "p"),
    ("like", "k"), ("not_interested", "n"),
)  # fmt: skip
"""Types of interaction and feedback, and the letter that stands for them in event ids."""
FIRST_ACTION = 4
"""Kind of the first of ``ACTIONS``; the others follow."""
FIRST_FEEDBACK = FIRST_ACTION + 4
"""Kind of the first action that is an opinion."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Events not yet made, one row each; ``slate`` points into the two list columns."""

    time_ms: Ints
    kind: Ints
    chunk: Ints
    number: Ints
    page: Ints
    position: Ints
    user: Ints
    item: Ints
    value: Floats
    context: Ints
    slate: Ints
    slate_items: Ints
    slate_propensities: Floats

    def take(self, rows: Ints) -> Columns:
        """Give some rows, with only the lists they point to."""
        values = {name: getattr(self, name)[rows] for name in _ROW_COLUMNS}
        used = values["slate"] >= 0
        lists = values["slate"][used]
        values["slate"] = np.where(used, np.cumsum(used) - 1, -1)
        return Columns(
            **values,
            slate_items=self.slate_items[lists],
            slate_propensities=self.slate_propensities[lists],
        )


_ROW_COLUMNS = tuple(f.name for f in fields(Columns) if not f.name.startswith("slate_"))


def concatenate(parts: list[Columns]) -> Columns:
    """Give all rows of some columns, at least one."""
    offsets = np.cumsum([0] + [len(part.slate_items) for part in parts])
    values = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _ROW_COLUMNS
    }
    values["slate"] = np.concatenate(
        [
            np.where(part.slate >= 0, part.slate + offset, -1)
            for part, offset in zip(parts, offsets, strict=False)
        ]
    )
    return Columns(
        **values,
        slate_items=np.concatenate([part.slate_items for part in parts]),
        slate_propensities=np.concatenate([part.slate_propensities for part in parts]),
    )


def page_columns(
    page: Page, visits: Visits, prices: Floats, first_position: int = 0
) -> Iterator[Columns]:
    """Give the rows of one page: its impressions, then each type of action.

    ``visits`` has the sessions of the page's rows; ``prices`` is by item.
    """
    slate, reaction = page.slates.items, page.reaction
    context = page.profiles.country * len(DEVICES) + page.profiles.device
    columns = {
        "chunk": visits.chunk, "number": visits.number, "user": visits.user,
        "context": context,
    }  # fmt: skip
    shown = np.flatnonzero((slate >= 0).any(axis=1))
    nothing = np.full(len(shown), -1)
    yield Columns(
        time_ms=page.time_ms[shown],
        kind=np.full(len(shown), IMPRESSION),
        page=np.full(len(shown), page.page),
        position=np.full(len(shown), first_position),
        item=nothing,
        value=np.ones(len(shown)),
        slate=np.arange(len(shown)),
        slate_items=slate[shown],
        slate_propensities=page.slates.propensities[shown],
        **{name: column[shown] for name, column in columns.items()},
    )
    r = reaction
    dwell_s = (r.view_end_ms - r.click_ms) / 1_000.0
    one, price = np.ones(slate.shape), prices[slate]
    actions = (
        (r.click, r.click_ms, one),
        (r.long_view, r.view_end_ms, dwell_s),
        (r.add_to_cart, r.view_end_ms + 2_000, one),
        (r.purchase, r.purchase_ms, price),
        (r.like, r.view_end_ms + 1_000, one),
        (r.not_interested, r.look_ms + 700, one),
    )
    for action, (happened, time_ms, value) in enumerate(actions):
        row, place = np.nonzero(happened)
        if len(row):
            yield Columns(
                time_ms=time_ms[row, place],
                kind=np.full(len(row), FIRST_ACTION + action),
                page=np.full(len(row), page.page),
                position=first_position + place,
                item=slate[row, place],
                value=value[row, place],
                slate=np.full(len(row), -1),
                slate_items=slate[:0],
                slate_propensities=page.slates.propensities[:0],
                **{name: column[row] for name, column in columns.items()},
            )


def announcement_columns(
    kind: int,
    time_ms: Ints,
    list_length: int,
    *,
    item: Ints | None = None,
    user: Ints | None = None,
) -> Columns:
    """Give the rows of item or user events."""
    size = len(time_ms)
    zero = np.zeros(size, dtype=np.int64)
    return Columns(
        time_ms=time_ms,
        kind=zero + kind,
        chunk=zero,
        number=zero,
        page=zero,
        position=zero,
        user=zero - 1 if user is None else user,
        item=zero - 1 if item is None else item,
        value=np.ones(size),
        context=zero,
        slate=zero - 1,
        slate_items=np.empty((0, list_length), dtype=np.int64),
        slate_propensities=np.empty((0, list_length)),
    )
