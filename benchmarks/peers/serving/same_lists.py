"""Whether a peer gives the lists that ours gives, of the same users at the same moment.

It computes from the same weights, and reads values where ours computes windows that end now. So
before they are asked, the values of these users and of the items are written anew; where a window
ended in between, they are written and asked once more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.loadtest.system import System, user_id
from benchmarks.peers.one_process import HNSW_FROM_ITEMS
from benchmarks.peers.serving.services import ask
from recsys.errors import ServerError

USERS = tuple(user_id(n) for n in range(20))
"""The busiest."""
SHARED_AT_LEAST = 0.98
"""Of the items: items whose scores are nearly equal may change places at a list's end."""
SHARED_OF_APPROXIMATE = 0.85
"""Of catalogues so large that both search approximately: for the users of the load benchmark, whose
histories lie far apart, each misses seven candidates in a hundred, and not the same ones."""
SCORES_WITHIN = 0.01
"""Of items in both lists: how long ago something was moves on between the two questions."""
_TRIES = 3
_PAUSE_S = 1.0

Lists = Mapping[str, Mapping[str, float]]
"""Of each user, item to score, best first."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two services gave the same lists."""

    shared: float
    """Share of our items that the peer showed to the same user."""
    score_gap: float
    """Largest difference of the scores of an item that both showed to a user."""
    lists: int
    tries: int

    def holds(self, shared_at_least: float = SHARED_AT_LEAST) -> bool:
        """Say whether they count as the same."""
        return self.shared >= shared_at_least and self.score_gap <= SCORES_WITHIN


def shared_at_least(num_items: int) -> float:
    """Give the share of items that must be the same where there are ``num_items``."""
    return SHARED_AT_LEAST if num_items < HNSW_FROM_ITEMS else SHARED_OF_APPROXIMATE


def lists_of(port: int, users: Sequence[str] = USERS) -> Lists:
    """Give what users are shown.

    Raises:
        ServerError: when an answer is not a full one, asked again either.
    """
    found = {}
    for user in users:
        label, body = ask(port, user)
        if label != "200 full":
            time.sleep(_PAUSE_S)
            label, body = ask(port, user)
        if label != "200 full":
            raise ServerError(f"wanted a full answer on port {port}, found {label}: {body[:500]!r}")
        found[user] = {item["item_id"]: item["score"] for item in json.loads(body)["items"]}
    return found


def write_anew(system: System, state: Path, num_items: int) -> None:
    """Write the values that peers read, of these users and all items, as they are now.

    Raises:
        ServerError: when it does not work.
    """
    command = [
        sys.executable, "-m", "benchmarks.peers.one_process.plain_store",
        "--from", str(system.settings.state_dir / "feature_store.yaml"),
        "--to", str(state / "plain" / "feature_store.yaml"),
        "--users", ",".join(USERS), "--items", str(num_items),
    ]  # fmt: skip
    environment = system.environment | system.feast_variables()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(
            f"wanted features written anew, found exit code {done.returncode}: "
            f"{done.stderr.strip()[-2000:]}"
        )


def agreement(ours: Lists, peer: Lists, tries: int = 1) -> Agreement:
    """Hold lists of the same users beside each other."""
    both = [(user, item) for user, items in ours.items() for item in items if item in peer[user]]
    count = sum(len(items) for items in ours.values())
    return Agreement(
        shared=round(len(both) / count, 4) if count else 0.0,
        score_gap=round(max((abs(ours[u][i] - peer[u][i]) for u, i in both), default=0.0), 6),
        lists=len(ours),
        tries=tries,
    )


def require_same_lists(
    name: str, ours: Callable[[], Lists], peer: Callable[[], Lists], refresh: Callable[[], None],
    shared_at_least: float = SHARED_AT_LEAST,
) -> dict[str, Any]:  # fmt: skip
    """Give how far the lists of a peer were ours, as plain data.

    Args:
        name: Of the peer.
        ours: Asks ours.
        peer: Asks the peer.
        refresh: Writes the values the peer reads as they are now.
        shared_at_least: Share of the items that both must show.

    Raises:
        ServerError: when they are others: then two systems would be timed on different work.
    """
    for tries in range(1, _TRIES + 1):
        refresh()
        found = agreement(ours(), peer(), tries)
        if found.holds(shared_at_least):
            return asdict(found)
    raise ServerError(
        f"{name}: wanted the lists that ours gives (at least {shared_at_least:.0%} of the items, "
        f"scores within {SCORES_WITHIN:g}), found {found.shared:.1%} and {found.score_gap:g}"
    )
