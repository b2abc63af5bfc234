"""The spools of one API process: where events and exposures wait while Kafka is away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recsys.events.direct_writer import Appender, DirectWriter
from recsys.events.log import EventWriter
from recsys.events.spool import Spool, SpoolBounds
from recsys.events.spool_folder import SPOOLS, SpoolFolder, take_folder
from recsys.events.spooled_writer import SpooledWriter
from recsys.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Spools:
    """Two ways to the log, apart: exposures are larger and must not take the room of events."""

    events: Appender
    exposures: Appender
    folder: SpoolFolder | None
    """``None`` where nothing is kept."""

    async def ask(self) -> str:
        """Say what waits, for ``/readyz``. Raises ServerError when no more events are taken."""
        if self.folder is None:
            return self.events.described()
        return f"{self.events.described()}; {self.exposures.described()}"

    def close(self) -> None:
        """Let others have the folder; after both are closed."""
        if self.folder is not None:
            self.folder.close()


def open_spools(settings: Settings, connect: Callable[[], EventWriter]) -> Spools:
    """Give the spools of this process, with what an earlier one left in its folder.

    Raises:
        ConfigurationError: when the folder cannot be used.
    """
    if not settings.spool_mb:
        return Spools(events=DirectWriter(connect), exposures=DirectWriter(connect), folder=None)
    bounds = SpoolBounds(
        max_bytes=settings.spool_mb * 1024 * 1024, max_age_s=settings.spool_hours * 3600.0
    )
    folder = take_folder(settings.spool_path)
    events, exposures = (
        SpooledWriter(connect, Spool(folder.path / name, bounds), adopt_from=settings.spool_path)
        for name in SPOOLS
    )
    return Spools(events=events, exposures=exposures, folder=folder)
