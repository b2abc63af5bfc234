"""Erasing one user: the order of the deeds, which may be cut off after any of them and done again.

What of the user waits on this machine's disk for Kafka comes first: it is sent, or removed where
nobody is there to send it. Then a ``forget`` record goes to the behaviour topic, behind all that is
there of the user. Whoever reads the log removes the user there, now and in every replay. Then we
wait until the workers have applied it and the event log on disk is past it: from then on nobody
writes anything older any more, so what is removed stays removed. Then the files go, and everything
is searched once more.

What the user does after that record is new: it stays, and features begin anew from it. Run again,
the command sends another such record, so what came in between goes, too.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl
import redis

from recsys.clock import now_ms
from recsys.endpoints import Endpoints
from recsys.erasure.arrival import ends_of, not_past
from recsys.erasure.files import (
    erase_from_tables,
    remove_folder,
    work_folders,
)
from recsys.erasure.letters import withdrawn_letters
from recsys.erasure.online import OnlineStore
from recsys.erasure.proof import Place, Proof
from recsys.erasure.search import Search, compared, log_name
from recsys.erasure.spools import UserSpools, spools_place
from recsys.errors import ConfigurationError, InputError, ServerError
from recsys.events.codec import decode_logged, encode
from recsys.events.event_log import scan
from recsys.events.kafka import (
    Retention,
    connect_writer,
    latest_positions,
    retention_of,
)
from recsys.events.log import TopicPartition
from recsys.events.log_erasure import Until, erase_user, find_forget
from recsys.events.log_files import topics_of
from recsys.events.log_rewrite import RewriterBusyError
from recsys.events.schema import EVENT_KINDS, ForgetEvent
from recsys.events.topics import Topics
from recsys.features.lease import Lease, rebuild_lease
from recsys.features.redis.address import parse
from recsys.features.redis_hashes import connect
from recsys.features.worker_files import ask_to_store
from recsys.settings import Settings

_POLL_S = 0.3
_SCAN_TIMEOUT_S = 10.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ForgetConfig:
    """Patience."""

    timeout_s: float = 120.0
    """Longest wait for the workers, for another rewriter of the event log and for a backfill."""


class Forgetting:
    """Erases users of one system."""

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        *,
        config: ForgetConfig = ForgetConfig(),
        say: Say = lambda _line: None,
    ) -> None:
        """Connect. ``say`` takes a line about each deed before it is done.

        Raises:
            ServerError: when Redis does not answer.
        """
        self._settings = settings
        self._endpoints = endpoints
        self._config = config
        self._say = say
        self._topics = Topics(namespace=settings.namespace)
        try:
            self._redis = connect(endpoints.require_redis(), timeout_s=_SCAN_TIMEOUT_S)
        except redis.RedisError as error:
            raise ServerError(f"Redis: wanted to connect, found: {error}; see REDIS_URL") from error
        self._online = OnlineStore(
            self._redis,
            settings.namespace,
            is_cluster=parse(endpoints.require_redis()).is_cluster,
        )
        self._spools = UserSpools(settings.spool_path, self._topics)
        self._search = Search(settings, self._topics, self._online)
        self._deadline = 0.0

    def close(self) -> None:
        """Let go of the store."""
        self._redis.close()

    def look(self, user_id: str) -> Proof:
        """Count what would be removed, and change nothing.

        Raises:
            InputError: when this is no user id.
            ServerError: when Kafka or Redis does not answer.
            ConfigurationError: when a file is damaged.
        """
        _event_of(user_id)
        places = (
            *self._search.places(user_id, self._search.logged_topics(), None),
            withdrawn_letters(self._settings, self._endpoints, user_id, dry_run=True),
            spools_place(self._spools.look(user_id), num_removed=0),
        )
        return Proof(
            user_id=user_id, dry_run=True, event_id=None, topic=None, partition=None, offset=None,
            places=places, kafka=self._retention(),
        )  # fmt: skip

    def forget(self, user_id: str) -> Proof:
        """Erase the user; see the module.

        Raises:
            InputError: when this is no user id.
            ServerError: when a server does not answer, or the workers are not past the record
                within ``timeout_s``. Run it again.
            ConfigurationError: when a file is damaged or cannot be written, or another process
                works on the event log for longer.
        """
        event = _event_of(user_id)
        self._say("looking for what there is")
        logged = self._search.logged_topics()
        before = self._search.places(user_id, logged, None)
        unsent = self._empty_spools(user_id)
        ends = self._publish(event)
        # The patience is for others; what we searched ourselves does not count.
        self._deadline = time.monotonic() + self._config.timeout_s
        self._await(ends)
        until = find_forget(
            self._settings.event_log_dir,
            self._topics.behaviour,
            event.event_id,
            start_ms=event.event_time_ms,
        )
        if until is None:
            raise ConfigurationError(
                f"event log {self._settings.event_log_dir}: wanted the forget record "
                f"{event.event_id}, found it to be past it without; does RECSYS_STATE_DIR name the "
                "folder the workers write to?"
            )
        erased = self._erase_log(user_id, logged, until)
        letters = withdrawn_letters(self._settings, self._endpoints, user_id, dry_run=False)
        self._remove_folders()
        erase_from_tables(self._settings.state_dir, user_id)
        note = self._online.rewrite_file(timeout_s=self._config.timeout_s)
        self._say("searching once more")
        after = self._search.places(user_id, logged, until)
        places = [
            compared(one, other, erased.get(one.name, 0))
            for one, other in zip(before, after, strict=True)
        ]
        places[0] = replace(self._told_apart(places[0], user_id, until), note=note)
        spools = spools_place(self._spools.look(user_id), num_removed=unsent)
        return Proof(
            user_id=user_id, dry_run=False, event_id=event.event_id, topic=until.topic,
            partition=until.partition, offset=until.offset, places=(*places, letters, spools),
            kafka=self._retention(),
        )  # fmt: skip

    def _empty_spools(self, user_id: str) -> int:
        """Return once nothing older than the record can come after it; gives what was removed."""
        # Without Kafka they would be waited for in vain.
        latest_positions(self._settings, self._endpoints, [self._topics.behaviour])
        self._say("waiting for the spools to be sent")
        self._deadline = time.monotonic() + self._config.timeout_s
        num_removed = 0
        while True:
            found = self._spools.erase(user_id)
            num_removed += found.num_records
            if not found.busy:
                return num_removed
            if time.monotonic() > self._deadline:
                raise ServerError(
                    f"wanted what waits for Kafka on this machine sent within "
                    f"{self._config.timeout_s:g} s, found that {found.busy[0]} still holds "
                    "something; see `recsys_spool_records`. Records that Kafka has refused are "
                    "looked into once its API process is stopped. The forget record was not sent; "
                    "run this command again"
                )
            time.sleep(_POLL_S)

    def _publish(self, event: ForgetEvent) -> dict[TopicPartition, int]:
        """Send the record; gives up to where what is older than it may lie."""
        self._say("sending the forget record")
        topic, key = self._topics.route(event)
        writer = connect_writer(self._settings, self._endpoints)
        try:
            writer.append_all([(topic, key, encode(event))])
        finally:
            writer.close()
        topics = [topic]
        if self._topics.exposures in topics_of(self._settings.event_log_dir):
            topics.append(self._topics.exposures)
        return ends_of(self._settings, self._endpoints, topics, key)

    def _await(self, ends: dict[TopicPartition, int]) -> None:
        self._say("waiting for the workers to be past it")
        while late := not_past(self._settings, self._endpoints, ends):
            if time.monotonic() > self._deadline:
                raise ServerError(
                    f"wanted the workers past the forget record within "
                    f"{self._config.timeout_s:g} s, found {'; '.join(late)}. The record is in the "
                    "log and removes the user's features once it is read; see `recsys status` and "
                    "`recsys lag`, then run this command again for the rest"
                )
            ask_to_store(self._settings)
            time.sleep(_POLL_S)

    def _erase_log(self, user_id: str, logged: Sequence[str], until: Until) -> dict[str, int]:
        """Give the rows removed by name of the place."""
        rows: dict[str, int] = {}
        for topic in logged:
            self._say(f"rewriting the event log of {topic}")
            while True:
                try:
                    erased = erase_user(self._settings.event_log_dir, topic, user_id, until)
                    rows[log_name(topic)] = erased.num_rows
                    break
                except RewriterBusyError:
                    if time.monotonic() > self._deadline:
                        raise
                    time.sleep(_POLL_S)

        return rows

    def _remove_folders(self) -> None:
        """Remove work in progress; a backfill under way is waited for."""
        folders = work_folders(self._settings.state_dir)
        if not folders:
            return
        self._say("removing work in progress")
        lease = Lease(self._redis, rebuild_lease(self._settings.namespace))
        if not lease.acquire(stop=lambda: time.monotonic() > self._deadline):
            raise ConfigurationError(
                f"wanted to remove what a backfill laid out, found one under way for longer than "
                f"{self._config.timeout_s:g} s; run this command again when it is done"
            )
        try:
            for folder in folders:
                remove_folder(folder)
        finally:
            lease.release()

    def _told_apart(self, online: Place, user_id: str, until: Until) -> Place:
        """Say whether hashes that are there again come from what the user did since."""
        if not online.num_left:
            return online
        behaviour = self._topics.behaviour
        ends = ends_of(self._settings, self._endpoints, [behaviour], user_id.encode())
        self._deadline = time.monotonic() + self._config.timeout_s
        self._await(ends)
        rows = scan(self._settings.event_log_dir, [behaviour], kinds=EVENT_KINDS).filter(
            pl.col("user_id") == user_id,
            pl.col("partition") == until.partition,
            pl.col("offset") > until.offset,
        )
        num_newer = rows.select(pl.len()).collect(engine="streaming").item()
        if not num_newer:
            return online  # somebody wrote old things back: not complete
        return replace(
            online,
            num_removed=online.num_found,
            num_left=0,
            num_newer=online.num_left,
        )

    def _retention(self) -> tuple[Retention, ...] | None:
        topics = (self._topics.behaviour, self._topics.exposures, self._topics.dead_letters)
        try:
            return tuple(retention_of(self._settings, self._endpoints, topics))
        except ServerError:
            return None


def _event_of(user_id: str) -> ForgetEvent:
    """Give the record that forgets ``user_id``. Raises InputError when it is no id."""
    event = ForgetEvent(event_id=uuid.uuid4().hex, event_time_ms=now_ms(), user_id=user_id)
    try:
        decode_logged(encode(event))
    except InputError as error:
        raise InputError(f"--user: {error}", field="user_id") from error
    return event
