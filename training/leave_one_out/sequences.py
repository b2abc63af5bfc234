"""Sequences of items by user, from a file ``user item item …``, one user a line, oldest first.

Axes: ``U`` users, ``E`` events, ``N`` items.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.errors import InputError
from recsys.features.batch import Int64s, Ragged
from recsys.models.next_item import ItemAttributes

MIN_EVENTS = 3
"""One to learn from, one to choose by, one to be judged on."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """All events, user after user."""

    user_ids: Int64s
    """``[U]`` as in the file."""
    item_ids: Int64s
    """``[N + 1]`` as in the file, ascending; row 0 is padding and stands for nothing."""
    item: Int64s
    """``[E]`` item rows, 1 … N."""
    offsets: Int64s
    """``[U + 1]``."""
    num_too_short: int
    """Users of the file with fewer than three events: they are left out."""

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_ids) - 1

    def until(self, held_out: int) -> Ragged:
        """Give each user's events but the last ``held_out``."""
        keep = np.ones(len(self.item), dtype=np.bool_)
        for back in range(1, held_out + 1):
            keep[self.offsets[1:] - back] = False
        return Ragged(self.item[keep], self.offsets - held_out * np.arange(len(self.offsets)))

    def last(self, back: int) -> Int64s:
        """Give ``[U]`` the event ``back`` places from the end; 1 is the last."""
        return self.item[self.offsets[1:] - back]


def read_sequences(path: Path) -> Sequences:
    """Read a file of sequences. Identities are whole numbers of any size and order.

    Items of users that are too short are items all the same: they compete in the ranking only when
    somebody else had them too.

    Raises:
        InputError: when the file is absent or empty, a line is not numbers, a user comes twice, or
            nobody has three events. The message names the line.
    """
    users: list[int] = []
    rows: list[Int64s] = []
    seen: dict[int, int] = {}
    num_too_short = 0
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--data: wanted a text file of sequences at {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries = np.array(line.split(), dtype=np.int64)
        except (ValueError, OverflowError):
            raise InputError(
                f"{path}, line {number}: wanted whole numbers `user item item …`, found "
                f"{line.strip()[:60]!r}"
            ) from None
        user = int(entries[0])
        if user in seen:
            raise InputError(
                f"{path}, line {number}: user {user} was on line {seen[user]} already; wanted one "
                "line a user, all events in time order"
            )
        seen[user] = number
        if len(entries) - 1 < MIN_EVENTS:
            num_too_short += 1
            continue
        users.append(user)
        rows.append(entries[1:])
    if not rows:
        found = f"{num_too_short} with fewer" if num_too_short else "no users"
        raise InputError(f"{path}: wanted users with at least {MIN_EVENTS} events, found {found}")
    ids, item = np.unique(np.concatenate(rows), return_inverse=True)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Sequences(
        user_ids=np.array(users, dtype=np.int64),
        item_ids=np.concatenate([np.zeros(1, dtype=np.int64), ids]),
        item=item.astype(np.int64) + 1,
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        num_too_short=num_too_short,
    )


def read_attributes(path: Path, sequences: Sequences) -> tuple[ItemAttributes, int]:
    """Read ``{"item": [attribute, …], …}`` and give it with the number of items it does not know.

    Items of the file that no sequence has are passed over; items without attributes have none.

    Raises:
        InputError: when the file is not such JSON, or has none of the items.
    """
    try:
        document = json.loads(path.read_text())
        given = {int(item): [int(a) for a in found] for item, found in document.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f'--attributes: wanted JSON {{"item": [attribute, ...], ...}} of whole numbers at '
            f"{path}: {error}"
        ) from None
    rows = [sorted(set(given.get(item, []))) for item in sequences.item_ids[1:].tolist()]
    known = np.unique(np.concatenate([np.array(row, dtype=np.int64) for row in rows]))
    if not len(known):
        raise InputError(
            f"{path}: none of the {sequences.num_items} items of the sequences has an attribute "
            f"there (found {len(given)} other items); are the identities those of --data?"
        )
    lengths = np.array([0, *(len(row) for row in rows)], dtype=np.int64)
    values = np.searchsorted(known, np.array([a for row in rows for a in row], dtype=np.int64))
    attributes = ItemAttributes(
        offsets=torch.from_numpy(np.cumsum(lengths) - lengths),
        values=torch.from_numpy(values),
        num_attributes=len(known),
    )
    return attributes, sum(not row for row in rows)
