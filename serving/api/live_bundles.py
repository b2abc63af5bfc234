"""Which bundle answers: follows the pointer that ``recsys publish`` moves.

Between one request and the next the bundle changes as a whole; a request keeps the one it began
with. The next bundle is loaded and seen to be ready in the model server before it is taken up. A
model server that was restarted has forgotten its models: they are loaded again from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recsys.bundle.served import ServedBundle
from recsys.deadline import Deadline
from recsys.errors import RecsysError, StageError
from recsys.inference.live import LiveBundle
from recsys.ranking.filters import NOTHING
from recsys.telemetry import BUNDLE_SWITCHES

logger = logging.getLogger(__name__)

_NOT_LOOKED = (-1, -1)
_NOBODY = "\x00"
"""No user: identities hold no control characters."""


class ModelServer(Protocol):
    """What is asked of the model server here."""

    async def is_ready(self) -> bool:
        """Say whether it takes requests."""

    async def is_model_ready(self, name: str) -> bool:
        """Say whether a model answers."""

    async def load(self, name: str) -> None:
        """Load a model; nothing happens when it is loaded."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How closely the pointer is followed."""

    pointer_interval_s: float = 0.25
    """Between two looks at the pointer: one ``stat`` each."""
    model_interval_s: float = 1.0
    """Between two questions whether the model server still has the model."""
    features_interval_s: float = 1.0
    """Between two questions whether the feature store is still written as the bundle reads it."""
    rehearsal_ms: int = 3_000
    """Longest wait for the first, unseen request of a bundle."""


class LiveBundles:
    """Holds the live bundle. ``current`` is read once by each request."""

    def __init__(
        self,
        *,
        pointer: Path,
        live_id: Callable[[], str | None],
        load: Callable[[str], ServedBundle],
        serve: Callable[[ServedBundle], LiveBundle],
        model_server: ModelServer,
        model_name: Callable[[str], str],
        config: WatchConfig | None = None,
    ) -> None:
        """Follow ``pointer``.

        Args:
            pointer: File whose change means another bundle may be live.
            live_id: Reads the pointer; ``None`` when nothing is live.
            load: Reads a bundle's names and lists; runs in a thread.
            serve: Puts it together with a model and a feature reader.
            model_server: Asked whether the model is there.
            model_name: The model of a bundle.
            config: Intervals.
        """
        self.current: LiveBundle | None = None
        self.trouble = "the live bundle is being taken up"
        """Why the bundle the pointer names is not served; ``""`` when it is, or none is named."""
        self._pointer = pointer
        self._live_id = live_id
        self._load = load
        self._serve = serve
        self._server = model_server
        self._model_name = model_name
        self._config = config or WatchConfig()
        self._seen: tuple[int, int] | None = _NOT_LOOKED

    async def run(self) -> None:
        """Follow the pointer until cancelled."""
        loop = asyncio.get_running_loop()
        model_due_s = features_due_s = 0.0
        while True:
            await self.follow()
            if loop.time() >= features_due_s:
                await self._watch_features()
                features_due_s = loop.time() + self._config.features_interval_s
            if loop.time() >= model_due_s:
                await self._keep_model_loaded()
                model_due_s = loop.time() + self._config.model_interval_s
            await asyncio.sleep(self._config.pointer_interval_s)

    async def follow(self) -> None:
        """Take up what the pointer names when it has moved; trouble leaves the present one."""
        seen = self._stamp()
        if seen == self._seen:
            return
        try:
            bundle_id = self._live_id()
            if bundle_id is not None and (
                self.current is None or self.current.bundle.bundle_id != bundle_id
            ):
                await self._take_up(bundle_id)
        except (RecsysError, OSError, ValueError) as error:
            if str(error) != self.trouble:
                logger.warning("the bundle to serve cannot be taken up: %s", error)
            self.trouble = str(error)
            return  # looked at again at the next turn
        self.trouble = ""
        self._seen = seen

    async def _take_up(self, bundle_id: str) -> None:
        bundle = await asyncio.to_thread(self._load, bundle_id)
        live = self._serve(bundle)
        with contextlib.suppress(RecsysError):
            await live.check_features()  # before the first request, which would else see nobody
        name = self._model_name(bundle_id)
        if not await self._server.is_model_ready(name):
            if self.current is None:
                self._switch(live)  # popular items are better than nothing
            await self._server.load(name)
        await self._rehearse(live)
        self._switch(live)

    async def _rehearse(self, live: LiveBundle) -> None:
        """Go the way of a request once: the first one connects, imports and allocates.

        A failure here is not a reason to stay on the old bundle: requests would meet it as well.
        """
        deadline = Deadline.after_ms(self._config.rehearsal_ms)
        with contextlib.suppress(StageError):
            user = await live.user(_NOBODY, deadline)
            await live.recommend(
                user, excluded=NOTHING, exclude_history=True, k=1, deadline=deadline
            )

    def _switch(self, live: LiveBundle) -> None:
        if self.current is None or self.current.bundle.bundle_id != live.bundle.bundle_id:
            BUNDLE_SWITCHES.inc()
            logger.info("serving bundle %s", live.bundle.bundle_id)
            self.current = live

    async def _watch_features(self) -> None:
        """The stream worker may go on with other declarations, or come back to the bundle's."""
        if self.current is not None:
            with contextlib.suppress(RecsysError):  # a store that is away is seen by every read
                await self.current.check_features()

    async def _keep_model_loaded(self) -> None:
        if self.current is None or not await self._server.is_ready():
            return
        name = self._model_name(self.current.bundle.bundle_id)
        if await self._server.is_model_ready(name):
            return
        logger.warning("the model server has lost %s; loading it again", name)
        try:
            await self._server.load(name)
        except RecsysError as error:
            logger.warning("%s", error)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._pointer)  # noqa: PTH116  four times a second
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino
