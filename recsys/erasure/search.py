"""Where something of a user may be, and how much of it there is. Changes nothing.

It is looked for twice: before an erasure, and after it, when nothing must be left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recsys.erasure.files import tables_with, training_folder, work_folders
from recsys.erasure.online import OnlineStore
from recsys.erasure.proof import Place
from recsys.events.log_erasure import Until, num_rows_of
from recsys.events.log_files import topics_of
from recsys.events.topics import Topics
from recsys.settings import Settings


class Search:
    """Searches the online store, the event log and the files of one system."""

    def __init__(self, settings: Settings, topics: Topics, online: OnlineStore) -> None:
        self._settings = settings
        self._topics = topics
        self._online = online

    def logged_topics(self) -> list[str]:
        """Give the topics with users' events that the event log has."""
        there = topics_of(self._settings.event_log_dir)
        return [t for t in (self._topics.behaviour, self._topics.exposures) if t in there]

    def places(self, user_id: str, logged: Sequence[str], until: Until | None) -> list[Place]:
        """Count; with ``until`` only what is older."""
        num_keys = self._online.num_keys()
        num_hashes = len(self._online.keys_of(user_id))
        places = [_found("online store (Redis)", f"{num_keys} keys", "hashes", num_hashes)]
        log_dir = self._settings.event_log_dir
        for topic in logged:
            log = num_rows_of(log_dir, topic, user_id, until)
            found = _found(log_name(topic), f"{log.num_files} files", "rows", log.num_rows)
            places.append(found)
        state_dir = self._settings.state_dir
        tables = tables_with(state_dir, user_id)
        searched = f"{tables.num_files} files with a user_id"
        places.append(_found("Parquet tables", searched, "rows", tables.num_rows))
        folders = work_folders(state_dir)
        is_training = training_folder(state_dir) in folders
        for name, num, note in (
            ("training runs' work", int(is_training), "removed as a whole, made again"),
            ("backfills' work", len(folders) - is_training, "removed as a whole, made again"),
        ):
            place = _found(name, f"{num} folders", "folders", num)
            places.append(replace(place, note=note))
        return places


def _found(name: str, searched: str, unit: str, num: int) -> Place:
    return Place(
        name=name, searched=searched, unit=unit, num_found=num, num_removed=0, num_left=num
    )


def log_name(topic: str) -> str:
    """Give the name of the place that is the event log of a topic."""
    return f"event log {topic}"


def compared(before: Place, after: Place, num_erased: int) -> Place:
    """Say what went; rows that reached the disk meanwhile were found only when they were erased."""
    num_found = max(before.num_found, after.num_found, num_erased + after.num_left)
    return replace(after, num_found=num_found, num_removed=num_found - after.num_left)
