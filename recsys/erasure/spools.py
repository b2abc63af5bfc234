"""What of a user waits on this machine's disk for Kafka: the spools of API processes.

A spool that a running process owns cannot be looked into, and need not be: while Kafka answers its
owner empties it within seconds, and a spool that holds nothing has no file. One whose process is
gone is searched and erased here; nobody else touches it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from recsys.erasure.proof import Place
from recsys.errors import ConfigurationError
from recsys.events.spool import Spool
from recsys.events.spool_folder import SPOOLS, orphans
from recsys.events.spool_groups import LogRecord
from recsys.events.topics import Topics


@dataclass(frozen=True, kw_only=True)
class SpoolsFound:
    """What there is at one moment."""

    num_files: int
    num_records: int
    """Of the user, in spools whose process is gone."""
    busy: tuple[Path, ...]
    """Spools of running processes that hold something."""


class UserSpools:
    """All spools under one folder."""

    def __init__(self, root: Path, topics: Topics) -> None:
        """``root``: ``Settings.spool_path``."""
        self._root = root
        self._topics = frozenset((topics.behaviour, topics.exposures))

    def look(self, user_id: str) -> SpoolsFound:
        """Count; changes nothing.

        Raises:
            ConfigurationError: when a spool is damaged, so that nobody can say what it holds.
        """
        return self._each(lambda spool: spool.count(self._is_of(user_id)))

    def erase(self, user_id: str) -> SpoolsFound:
        """Remove the user's records from spools whose process is gone; counts what was removed.

        Raises:
            ConfigurationError: when a spool is damaged or cannot be written.
        """
        is_meant = self._is_of(user_id)

        def erase(spool: Spool) -> int:
            return spool.erase(is_meant) if spool.count(is_meant) else 0

        return self._each(erase)

    def _is_of(self, user_id: str) -> Callable[[LogRecord], bool]:
        key = user_id.encode()
        return lambda record: record[1] == key and record[0] in self._topics

    def _each(self, deed: Callable[[Spool], int]) -> SpoolsFound:
        num_files, num_records = 0, 0
        busy: list[Path] = []
        try:
            for name in SPOOLS:
                there = set(self._root.glob(f"*/{name}"))
                num_files += len(there)
                with orphans(self._root, name) as paths:
                    for path in paths:
                        with closing(Spool(path)) as spool:
                            num_records += deed(spool)
                busy += sorted(path for path in there - set(paths) if path.exists())
                self._require_whole(name)  # opening one may have found it damaged
        except OSError as error:
            raise ConfigurationError(
                f"{self._root}: wanted to look for the user's records there, found: {error}; give "
                "this user the right to it and run the command again"
            ) from error
        return SpoolsFound(num_files=num_files, num_records=num_records, busy=tuple(busy))

    def _require_whole(self, name: str) -> None:
        damaged = sorted(self._root.glob(f"*/{name}.damaged-*"))
        if damaged:
            raise ConfigurationError(
                f"{damaged[0]}: wanted to look for the user's records in it, found a spool that "
                "was moved aside because it is damaged; save what can be saved "
                "(`sqlite3 FILE .recover`), remove it and run the command again"
            )


def spools_place(found: SpoolsFound, *, num_removed: int) -> Place:
    """Give the line of the proof."""
    note = "of API processes on this machine; others have their own: see `recsys_spool_records`"
    if found.busy:
        note += f"; not looked into, being sent: {', '.join(map(str, found.busy))}"
    return Place(
        name="spools",
        searched=f"{found.num_files} files",
        unit="records",
        num_found=num_removed + found.num_records,
        num_removed=num_removed,
        num_left=found.num_records,
        note=note,
    )
