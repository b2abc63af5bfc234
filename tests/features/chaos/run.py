"""Hurts workers, broker and store at random points, and compares what is left with a quiet run."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import ServerError
from recsys.events.event_log import scan
from recsys.events.log_verify import verify
from recsys.settings import Settings
from tests.features.chaos.house import House, StoreKind, wait_for
from tests.features.chaos.load import Load
from tests.features.quiet_run import all_records, quiet_run, stored_features

KINDS = ("kill", "sleep", "long sleep", "stop", "start", "store", "broker")
_WEIGHTS = np.array([30, 25, 5, 12, 12, 10, 6]) / 100
_CATCH_UP_S = 180.0


class Chaos:
    """One run. Everything random follows from the seed, but for what the machine adds."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        seed: int,
        store: StoreKind = "server",
        gap_s: float = 1.0,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.house = House(settings, folder, store=store)
        self._rng = np.random.default_rng(seed)
        self._say = say
        self._gap_s = gap_s
        self._load = Load(settings, self.house.endpoints, np.random.default_rng([seed, 1]))
        self._wake: list[tuple[float, int]] = []
        self.done: Counter[str] = Counter()

    def run(self, points: list[str] | int) -> None:
        """Hurt at the given points (or so many random ones), one worker, three, one."""
        kinds = points
        if isinstance(kinds, int):
            kinds = [str(kind) for kind in self._rng.choice(KINDS, kinds, p=_WEIGHTS)]
        try:
            with self._load:
                self.house.mend(1)
                time.sleep(2.0)
                for number, kind in enumerate(kinds):
                    wanted = 3 if len(kinds) / 3 <= number < 2 * len(kinds) / 3 else 1
                    self._say(f"point {number + 1} of {len(kinds)}: {kind}, {wanted} workers")
                    self.house.mend(wanted)
                    self._hurt(kind)
                    self.done[kind] += 1
                    self._sleep(float(self._rng.uniform(0.05, self._gap_s)))
                self._sleep(0.0, wake_all=True)
                self.house.mend(1)
            self._check()
        finally:
            self.house.close()

    def _hurt(self, kind: str) -> None:
        house = self.house
        number = int(self._rng.choice(list(house.workers)))
        match kind:
            case "kill":
                house.end_worker(number, signal.SIGKILL)
            case "sleep" | "long sleep":
                house.workers[number].send_signal(signal.SIGSTOP)
                # A session is 6 s: the long ones are woken when others have their partitions.
                sleep_s = self._rng.uniform(0.1, 2) if kind == "sleep" else self._rng.uniform(7, 10)
                self._wake.append((time.monotonic() + float(sleep_s), number))
                if kind == "long sleep":
                    house.start_worker()
            case "stop":
                house.end_worker(number, signal.SIGTERM)
            case "start":
                house.start_worker()
            case "store":
                house.redis.kill_and_start()
            case "broker":
                house.kafka.kill_and_start()

    def _sleep(self, seconds: float, *, wake_all: bool = False) -> None:
        end_s = time.monotonic() + seconds
        while True:
            now_s = time.monotonic()
            due = [(at, number) for at, number in self._wake if wake_all or at <= now_s]
            for entry in due:
                self._wake.remove(entry)
                if (worker := self.house.workers.get(entry[1])) is not None:
                    worker.send_signal(signal.SIGCONT)
            if now_s >= end_s:
                return
            time.sleep(0.02)

    def _check(self) -> None:
        house = self.house
        records = all_records(house.settings, house.endpoints)
        ends = Counter((r.topic, r.partition) for r in records)

        def is_applied() -> bool:
            house.mend(1)
            try:
                return all(position == ends[at] for at, position in house.progress().items())
            except ServerError:
                return False

        wait_for(is_applied, _CATCH_UP_S, f"progress; see {house.log}")
        expected, events = quiet_run(house.plan, house.topics, records)
        found = stored_features(house.redis.url, house.settings.namespace)
        differing = [key for key in expected | found if expected.get(key) != found.get(key)]
        assert not differing, (
            f"{len(differing)} of {len(expected)} entities differ: {differing[:3]}"
        )

        def is_logged() -> bool:
            for worker in house.workers.values():
                worker.send_signal(signal.SIGUSR1)
            time.sleep(0.3)
            return verify(house.settings.event_log_dir).num_rows == len(events)

        wait_for(is_logged, _CATCH_UP_S, "the event log")
        report = verify(house.settings.event_log_dir)
        assert report.is_sound, report.problems
        topics = [house.topics.items, house.topics.behaviour]
        logged = scan(house.settings.event_log_dir, topics).select(
            "topic", "partition", "offset", "event_id"
        )
        rows = logged.collect()
        assert rows.select("topic", "partition", "offset").is_unique().all()
        assert self._load.acknowledged <= set(rows.get_column("event_id"))
        self._say(
            f"{len(events)} events, {len(expected)} entities, equal; "
            f"points: {dict(self.done)}; rows of the event log: {rows.select(pl.len()).item()}"
        )
