"""Which bundles answer: follows the pointers that ``recsys publish`` moves.

Between one request and the next the bundle changes as a whole; a request keeps the one it began
with. The next bundle is loaded and seen to be ready in the model server before it is taken up. A
model server that was restarted has forgotten its models: they are loaded again from here.

Beside the live bundle, others may be served to the requests that are assigned to them. One of them
that cannot be served is told of, and changes nothing for the live one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from recsys.bundle.announced import Announcement
from recsys.bundle.served import ServedBundle
from recsys.deadline import Deadline
from recsys.errors import RecsysError, StageError
from recsys.inference.live import LiveBundle
from recsys.ranking.filters import NOTHING
from recsys.telemetry import BUNDLE_SWITCHES, BUNDLES_SERVED

logger = logging.getLogger(__name__)

_NOBODY = "\x00"
"""No user: identities hold no control characters."""


class Pointers(Protocol):
    """What is to be served; see ``BundleStore``."""

    def live(self) -> str | None:
        """Give the live bundle; ``None`` when there is none."""

    def beside(self) -> Sequence[str]:
        """Give the bundles served beside it."""


class ModelServer(Protocol):
    """What is asked of the model server here."""

    async def is_ready(self) -> bool:
        """Say whether it takes requests."""

    async def is_model_ready(self, name: str) -> bool:
        """Say whether a model answers."""

    async def load(self, name: str) -> None:
        """Load a model; nothing happens when it is loaded."""


async def _tell_nobody(announcement: Announcement) -> None:
    return


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How closely the pointers are followed."""

    pointer_interval_s: float = 0.25
    """Between two looks at the pointers: one ``stat`` each."""
    model_interval_s: float = 1.0
    """Between two questions whether the model server still has the models."""
    features_interval_s: float = 1.0
    """Between two questions whether the feature store is still written as the bundles read it, and
    between two announcements of what is served."""
    rehearsal_ms: int = 3_000
    """Longest wait for the first, unseen request of a bundle."""


class LiveBundles:
    """Holds the bundles in service. ``current`` is read once by each request."""

    def __init__(
        self,
        *,
        pointers: Pointers,
        files: Sequence[Path],
        load: Callable[[str], ServedBundle],
        serve: Callable[[ServedBundle], LiveBundle],
        model_server: ModelServer,
        model_name: Callable[[str], str],
        announce: Callable[[Announcement], Awaitable[None]] = _tell_nobody,
        config: WatchConfig | None = None,
    ) -> None:
        """Follow ``pointers``.

        Args:
            pointers: What is to be served.
            files: Those whose change means that something else may be.
            load: Reads a bundle's names and lists; runs in a thread.
            serve: Puts it together with a model and a feature reader.
            model_server: Asked whether the models are there.
            model_name: The model of a bundle.
            announce: Tells whoever unloads bundles which ones are in use here; its RecsysError is
                ignored, since the next one follows.
            config: Intervals.
        """
        self.current: LiveBundle | None = None
        self.beside: dict[str, LiveBundle] = {}
        """Served to the requests assigned to them, by id."""
        self.trouble = "the live bundle is being taken up"
        """Why the bundle the pointer names is not served; ``""`` when it is, or none is named."""
        self._has_tried = False
        self._beside_trouble: dict[str, str] = {}
        self._before: LiveBundle | None = None
        """The live one before: going back to it costs nothing."""
        self._held: WeakValueDictionary[str, LiveBundle] = WeakValueDictionary()
        """All that are in use here, by a request at least."""
        self._pointers = pointers
        self._files = tuple(files)
        self._load = load
        self._serve = serve
        self._server = model_server
        self._model_name = model_name
        self._announce = announce
        self._config = config or WatchConfig()
        self._seen: list[tuple[int, int] | None] | None = None

    @property
    def can_answer(self) -> bool:
        """Whether requests should come here: not before the live bundle is taken up.

        One whose model the server could not load when it was asked to is answered with from the
        lower rungs: others would do no better.
        """
        return self._has_tried and (self.current is not None or not self.trouble)

    def serving(self, bundle_id: str) -> LiveBundle | None:
        """Give a bundle that is in service, the live one included; ``None`` when it is not."""
        if self.current is not None and self.current.bundle.bundle_id == bundle_id:
            return self.current
        return self.beside.get(bundle_id)

    async def run(self) -> None:
        """Follow the pointers until cancelled."""
        loop = asyncio.get_running_loop()
        model_due_s = features_due_s = 0.0
        told: Announcement | None = None
        while True:
            await self.follow()
            if loop.time() >= features_due_s:
                await self._watch_features()
                told = None
                features_due_s = loop.time() + self._config.features_interval_s
            if loop.time() >= model_due_s or any(one.is_model_away for one in self._in_service()):
                await self._keep_models_loaded()
                model_due_s = loop.time() + self._config.model_interval_s
            if (announcement := self.announcement()) != told:
                with contextlib.suppress(RecsysError):
                    await self._announce(announcement)
                    told = announcement
            await asyncio.sleep(self._config.pointer_interval_s)

    def announcement(self) -> Announcement:
        """Give what is in use here."""
        return Announcement(
            live=None if self.current is None else self.current.bundle.bundle_id,
            beside=sorted(self.beside),
            held=sorted(self._held),
        )

    async def follow(self) -> None:
        """Take up what the pointers name when they have moved; trouble leaves what is there."""
        seen = [_stamp(path) for path in self._files]
        if seen == self._seen:
            return
        try:
            bundle_id = self._pointers.live()
            if bundle_id is not None and (
                self.current is None or self.current.bundle.bundle_id != bundle_id
            ):
                await self._take_up(bundle_id)
            await self._follow_beside()
        except (RecsysError, OSError, ValueError) as error:
            if str(error) != self.trouble:
                logger.warning("the bundle to serve cannot be taken up: %s", error)
            self.trouble = str(error)
            return  # looked at again at the next turn
        finally:
            self._has_tried = True
        self.trouble = ""
        self._seen = seen

    async def _take_up(self, bundle_id: str) -> None:
        live = await self._readied(bundle_id)
        name = self._model_name(bundle_id)
        if not await self._server.is_model_ready(name):
            if self.current is None:
                self._switch(live)  # popular items are better than nothing
            await self._server.load(name)
        await self._rehearse(live)
        self._switch(live)

    async def _readied(self, bundle_id: str) -> LiveBundle:
        """Give a bundle with its features looked at, as it is still held or read anew."""
        before = self._before
        live = self.beside.get(bundle_id)
        if live is None and before is not None and before.bundle.bundle_id == bundle_id:
            live = before
        if live is None:
            live = self._serve(await asyncio.to_thread(self._load, bundle_id))
            self._held[bundle_id] = live
        with contextlib.suppress(RecsysError):
            await live.check_features()  # before the first request, which would else see nobody
        return live

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
        if self.current is not live:
            BUNDLE_SWITCHES.inc()
            logger.info("serving bundle %s", live.bundle.bundle_id)
            self._before, self.current = self.current, live

    async def _follow_beside(self) -> None:
        """Serve what is named beside the live bundle, and nothing else; never raises for one."""
        named = list(self._pointers.beside())
        for bundle_id in set(self.beside) - set(named):
            logger.info("no longer serving bundle %s beside the live one", bundle_id)
        self.beside = {i: live for i, live in self.beside.items() if i in named}
        self._beside_trouble = {i: t for i, t in self._beside_trouble.items() if i in named}
        for bundle_id in named:
            if bundle_id in self.beside:
                continue
            try:
                live = await self._readied(bundle_id)
                name = self._model_name(bundle_id)
                if not await self._server.is_model_ready(name):
                    await self._server.load(name)
                await self._rehearse(live)
            except (RecsysError, OSError, ValueError) as error:
                if self._beside_trouble.get(bundle_id) != str(error):
                    logger.warning("bundle %s beside the live one: %s", bundle_id, error)
                self._beside_trouble[bundle_id] = str(error)
                continue
            self._beside_trouble.pop(bundle_id, None)
            self.beside = {**self.beside, bundle_id: live}
            logger.info("serving bundle %s beside the live one", bundle_id)
        BUNDLES_SERVED.set(len(self.beside) + (self.current is not None))

    def _in_service(self) -> list[LiveBundle]:
        return [*([] if self.current is None else [self.current]), *self.beside.values()]

    async def _watch_features(self) -> None:
        """The stream worker may go on with other declarations, or come back to the bundle's."""
        for live in self._in_service():
            with contextlib.suppress(RecsysError):  # a store that is away is seen by every read
                await live.check_features()

    async def _keep_models_loaded(self) -> None:
        if self._beside_trouble:
            with contextlib.suppress(RecsysError, OSError):
                await self._follow_beside()
        if not self._in_service() or not await self._server.is_ready():
            return
        for live in self._in_service():
            name = self._model_name(live.bundle.bundle_id)
            if await self._server.is_model_ready(name):
                continue
            logger.warning("the model server has lost %s; loading it again", name)
            try:
                await self._server.load(name)
            except RecsysError as error:
                logger.warning("%s", error)
                continue
            live.ask_model_again()
            await self._rehearse(live)  # the first probe is nobody's request


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  four times a second
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino
