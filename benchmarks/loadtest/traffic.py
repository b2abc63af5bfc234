"""What is asked: kinds of requests by weight, users, and events about lists that were shown.

A request is made when it is due, so that it can speak of earlier answers: an ``events`` request
reports one list as shown and what was clicked in it, ``similar`` and ``rank`` ask about items that
some list had. While no list has come yet, a recommendation is asked in their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError

KINDS = ("recommend", "rank", "similar", "events")
_LISTS = 1_000
"""Lists waiting to be reported; older ones are never acted on, as with real users."""
_ITEMS = 2_000
_DEFAULT_USERS = 1_000
_RANKED = 100
"""Items that one ``rank`` request asks about, at most."""


@dataclass(frozen=True, kw_only=True)
class ShownList:
    """A list that an answer gave."""

    user_id: str
    request_id: str
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One request, before it is put into the words of a target."""

    kind: str
    number: int
    user_id: str
    k: int
    items: tuple[str, ...] = ()
    """``similar``: one; ``rank``: those to be ordered."""
    shown: ShownList | None = None
    """``events``: what is reported."""
    clicks: tuple[int, ...] = ()
    """``events``: the places clicked, from 0."""


class Words(Protocol):
    """How a target puts requests, and reads lists out of its answers."""

    def put(self, wanted: Wanted) -> Any:
        """Give the request as it is sent."""

    def shown(self, answer: Any) -> tuple[str, Sequence[str]]:
        """Give the id and the items of a recommendation's answer."""


def parse_mix(text: str) -> dict[str, float]:
    """Read ``recommend=8,events=2``. Raises ValueError saying what was wanted."""
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            value = float(weight or "1")
        except ValueError:
            value = -1.0
        if name.strip() not in KINDS or not 0 <= value < float("inf") or name.strip() in mix:
            raise ValueError(
                f"wanted KIND=WEIGHT,… with each kind of {', '.join(KINDS)} at most once and "
                f"weights from 0, found {part!r}"
            )
        mix[name.strip()] = value
    if not mix.get("recommend"):
        raise ValueError(f"wanted recommend with a weight above 0 in the mix, found {text!r}")
    return mix


def read_users(path: Path | None) -> tuple[str, ...]:
    """Read user ids, one a line, or make some up. Raises InputError when there are none."""
    if path is None:
        return tuple(f"user-{n}" for n in range(_DEFAULT_USERS))
    try:
        found = tuple(line for line in path.read_text().splitlines() if line)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"wanted user ids in {path}, found: {error}") from error
    if not found:
        raise InputError(f"wanted a user id a line in {path}, found none")
    return found


def draw_kinds(mix: dict[str, float], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw a kind for each of ``count`` requests, as places in ``KINDS``."""
    weights = np.array([mix.get(kind, 0.0) for kind in KINDS])
    return rng.choice(len(KINDS), size=count, p=weights / weights.sum())


class Traffic(Sequence[Any]):
    """The requests of a run by number; each is made when it is asked for, in order."""

    def __init__(
        self,
        words: Words,
        *,
        k: int,
        click_rate: float,
        learns: bool,
        rng: np.random.Generator,
    ) -> None:
        """``learns``: whether lists are read out of answers, which costs the generator time."""
        self._words, self._k, self._click_rate = words, k, click_rate
        self._learns, self._rng = learns, rng
        self._lists: deque[ShownList] = deque(maxlen=_LISTS)
        self._items: deque[str] = deque(maxlen=_ITEMS)
        self._users: Sequence[str] = ()
        self.kinds = np.empty(0, dtype=np.int64)

    def begin(self, users: Sequence[str], kinds: NDArray[np.int64]) -> None:
        """Take up the requests of another run; what was shown is still known."""
        self._users, self.kinds = users, kinds.copy()

    def __len__(self) -> int:
        return len(self._users)

    def __getitem__(self, number: Any) -> Any:
        kind = KINDS[self.kinds[number]]
        wanted = self._wanted(kind, number)
        self.kinds[number] = KINDS.index(wanted.kind)
        return self._words.put(wanted)

    def answered(self, number: int, answer: Any) -> None:
        """Learn from an answer that was good."""
        if not self._learns or self.kinds[number] != 0:
            return
        request_id, items = self._words.shown(answer)
        if items:
            user_id = self._users[number]
            shown = ShownList(user_id=user_id, request_id=request_id, items=tuple(items))
            self._lists.append(shown)
            self._items.extend(items)

    def clicks(self, length: int) -> tuple[int, ...]:
        """Draw the places clicked of a list: the place from 0 has chance ``click_rate / (p + 1)``.

        Each by itself: examination falls with the place, interest does not (Craswell et al. 2008,
        "An experimental comparison of click position-bias models", the examination hypothesis).
        """
        chances = self._click_rate / np.arange(1, length + 1)
        return tuple(np.nonzero(self._rng.random(length) < chances)[0].tolist())

    def _wanted(self, kind: str, number: int) -> Wanted:
        user_id = self._users[number]
        if kind == "events" and self._lists:
            shown = self._lists.popleft()
            return Wanted(
                kind=kind, number=number, user_id=shown.user_id, k=self._k, shown=shown,
                clicks=self.clicks(len(shown.items)),
            )  # fmt: skip
        if kind in ("rank", "similar") and self._items:
            count = 1 if kind == "similar" else _RANKED
            drawn = self._rng.integers(len(self._items), size=count)
            items = tuple(dict.fromkeys(self._items[place] for place in drawn.tolist()))
            return Wanted(kind=kind, number=number, user_id=user_id, k=self._k, items=items)
        return Wanted(kind="recommend", number=number, user_id=user_id, k=self._k)
