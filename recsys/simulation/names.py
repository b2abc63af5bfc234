"""Ids of users, items and requests, and the indices they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from recsys.errors import InputError
from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import Ints

NamesLike = str | int | Sequence[str] | Sequence[int] | npt.NDArray[np.integer]
"""One or many users or items, by id or by index."""

_LOGGED_REQUEST = re.compile(r"([0-9a-f]{8})\.([0-9a-f]{1,12})\.([0-9a-f]{1,12})\.([0-9]{1,3})")


class Names:
    """Turns ids into indices and back. Ids are fixed width, so that they sort like indices."""

    def __init__(self, config: WorldConfig) -> None:
        self._num_users = config.num_users
        self._num_items = config.num_items
        self.tag = config.tag
        self.user_width = max(7, len(str(config.num_users - 1)))
        self._item_width = max(6, len(str(config.num_items - 1)))

    def user_id(self, index: int) -> str:
        """Give the id of a user."""
        return f"u{index:0{self.user_width}d}"

    def item_id(self, index: int) -> str:
        """Give the id of an item."""
        return f"i{index:0{self._item_width}d}"

    def users(self, names: NamesLike) -> Ints:
        """Give indices [n] of users. Raises InputError when one is not of this world."""
        return _indices(names, "user_id", "u", self._num_users, self.user_id)

    def items(self, names: NamesLike) -> Ints:
        """Give indices [n] of items. Raises InputError when one is not of this world."""
        return _indices(names, "item_id", "i", self._num_items, self.item_id)

    def request_id(self, chunk: int, number: int, page: int) -> str:
        """Give the id of a request of the log."""
        return f"{self.tag}.{chunk:x}.{number:x}.{page}"

    def logged_request(self, request_id: str) -> tuple[int, int, int] | None:
        """Give chunk, number and page when the id has the form of this world's log."""
        match = _LOGGED_REQUEST.fullmatch(request_id)
        if match is None or match[1] != self.tag:
            return None
        return int(match[2], 16), int(match[3], 16), int(match[4])


def _indices(
    names: NamesLike, field: str, letter: str, size: int, write: Callable[[int], str]
) -> Ints:
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, int | np.ndarray) and any(isinstance(n, str) for n in names):
        return np.array([_index(str(n), field, letter, size, write) for n in names])
    index = np.atleast_1d(np.asarray(names, dtype=np.int64))
    outside = index[(index < 0) | (index >= size)]
    if outside.size:
        _refuse(str(outside[0]), field, size, write)
    return index


def _index(name: str, field: str, letter: str, size: int, write: Callable[[int], str]) -> int:
    digits = name[1:]
    if name[:1] == letter and digits.isascii() and digits.isdigit() and len(digits) <= 18:
        index = int(digits)
        if index < size and write(index) == name:
            return index
    return _refuse(name, field, size, write)


def _refuse(name: str, field: str, size: int, write: Callable[[int], str]) -> NoReturn:
    raise InputError(
        f"this simulated world has {write(0)} to {write(size - 1)}, found {name!r}; "
        "use an id of its user or item events",
        field=field,
    )
